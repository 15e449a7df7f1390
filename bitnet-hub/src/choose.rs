//! Selection of files from a repository: by pattern, by name, or all that is needed to run the model.

pub use crate::error::Choice;
use crate::error::{Error, Result};
use crate::name::Repository;
use crate::no_model::{is_adapter, no_model};
use crate::onnx;
use crate::storage::{Role, mentions_draft_layer, stem_of};

/// Files of a model folder beside its weights and `config.json`.
pub const SIDE_FILES: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
];

/// A file on the hub or in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path in the repository, separated by `/`.
    pub path: String,
    /// Its size, if it is known.
    pub bytes: Option<u64>,
}

/// A request for files.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// All files needed to run the model.
    Model,
    /// One file, or all files of a split GGUF model. If the path does not exist, the GGUF file whose name ends with
    /// this word, ignoring case: `TQ2_0` finds `model-tq2_0.gguf`.
    File(&'a str),
    /// Files that match one of `include` (all files if empty) and none of `exclude`.
    Matching {
        /// Patterns with `*` and `?`, matched against whole paths; `*` crosses `/`.
        include: &'a [String],
        /// Patterns of files to exclude.
        exclude: &'a [String],
    },
}

/// The selected files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Paths in the repository.
    pub paths: Vec<String>,
    /// The path to run; `None` for the whole folder.
    pub run: Option<String>,
}

/// A GGUF model: one file, or all files of a split one.
struct Gguf<'f> {
    stem: &'f str,
    files: Vec<&'f Found>,
}

impl Gguf<'_> {
    fn choice(&self) -> Choice {
        let bytes = self.files.iter().try_fold(0_u64, |sum, f| sum.checked_add(f.bytes?));
        Choice { file: self.files[0].path.clone(), bytes }
    }

    fn selection(&self) -> Selection {
        Selection {
            paths: self.files.iter().map(|file| file.path.clone()).collect(),
            run: Some(self.files[0].path.clone()),
        }
    }

    /// Returns whether its name ends with `word`, or it is in a folder named `word`.
    fn is_called(&self, word: &str) -> bool {
        let (stem, word) = (self.stem.to_lowercase(), word.to_lowercase());
        let ends = stem
            .strip_suffix(&word)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '_', '.', '/']));
        ends || stem.rsplit('/').skip(1).any(|folder| folder == word)
    }
}

/// Returns the GGUF models among `files`, sorted by path: single
/// and split ones, without auxiliary files of other models.
pub fn gguf_models(files: &[Found]) -> Vec<Choice> {
    with_role(files, Role::Model).iter().map(Gguf::choice).collect()
}

/// Selects from `files`, which are sorted by path.
///
/// # Errors
/// [`Error::Choose`] if the user has to choose; [`Error::NoModel`], [`Error::NoFile`] or [`Error::NoMatch`] if no
/// file matches.
pub fn choose(repository: &Repository, files: &[Found], wanted: &Wanted<'_>) -> Result<Selection> {
    match *wanted {
        Wanted::Model => whole_model(repository, files),
        Wanted::File(name) => one_file(repository, files, name),
        Wanted::Matching { include, exclude } => {
            let any = |patterns: &[String], path: &str| patterns.iter().any(|p| matches(p, path));
            let taken = |file: &&Found| {
                (include.is_empty() || any(include, &file.path)) && !any(exclude, &file.path)
            };
            let chosen: Vec<Found> = files.iter().filter(taken).cloned().collect();
            if chosen.is_empty() {
                return Err(Error::NoMatch { repository: repository.to_string() });
            }
            let run = match ggufs(&chosen).as_slice() {
                [only] if !chosen.iter().any(|f| f.path.ends_with(".safetensors")) => {
                    only.selection().run
                }
                _ => None,
            };
            Ok(Selection { paths: chosen.into_iter().map(|file| file.path).collect(), run })
        }
    }
}

fn whole_model(repository: &Repository, files: &[Found]) -> Result<Selection> {
    let safetensors = safetensors(files);
    if !safetensors.is_empty() {
        let paths = files
            .iter()
            .map(|file| file.path.as_str())
            .filter(|path| safetensors.contains(path) || is_companion(path))
            .map(str::to_owned)
            .collect();
        return Ok(Selection { paths, run: None });
    }
    match with_role(files, Role::Model).as_slice() {
        [] => onnx::model(files).ok_or_else(|| no_model(repository, files)),
        [only] => Ok(only.selection()),
        several => Err(Error::Choose {
            repository: repository.to_string(),
            choices: several.iter().map(Gguf::choice).collect(),
        }),
    }
}

/// Returns whether a file of a model folder belongs to its weights.
pub(crate) fn is_companion(path: &str) -> bool {
    path == "config.json"
        || SIDE_FILES.contains(&path)
        || path.starts_with("additional_chat_templates/") && path.ends_with(".jinja")
}

fn one_file(repository: &Repository, files: &[Found], name: &str) -> Result<Selection> {
    let models = ggufs(files);
    if let Some(model) = models.iter().find(|model| model.files.iter().any(|f| f.path == name)) {
        return Ok(model.selection());
    }
    if let Some(model) = onnx::named(files, name) {
        return Ok(model);
    }
    if files.iter().any(|file| file.path == name) {
        return Ok(Selection { paths: vec![name.to_owned()], run: Some(name.to_owned()) });
    }
    let called: Vec<_> = models.iter().filter(|model| model.is_called(name)).collect();
    match called.as_slice() {
        [] => Err(Error::NoFile { repository: repository.to_string(), file: name.to_owned() }),
        [only] => Ok(only.selection()),
        several => Err(Error::Choose {
            repository: repository.to_string(),
            choices: several.iter().map(|model| model.choice()).collect(),
        }),
    }
}

/// Returns the weights in the main folder and their index. If some are named `model…`, only those: others are copies in
/// another format.
pub(crate) fn safetensors(files: &[Found]) -> Vec<&str> {
    let all: Vec<&str> = files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| !path.contains('/'))
        .filter(|path| path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json"))
        .filter(|path| !is_adapter(path))
        .collect();
    let named: Vec<&str> = all.iter().copied().filter(|path| path.starts_with("model")).collect();
    if named.is_empty() { all } else { named }
}

/// Returns GGUF models by their first file, in the order of `files`.
fn ggufs(files: &[Found]) -> Vec<Gguf<'_>> {
    let mut models: Vec<Gguf<'_>> = Vec::new();
    for file in files {
        if !file.path.ends_with(".gguf") {
            continue;
        }
        let stem = stem_of(&file.path);
        match models.iter_mut().find(|model| model.stem == stem && is_shard(&file.path)) {
            Some(model) => model.files.push(file),
            None => models.push(Gguf { stem, files: vec![file] }),
        }
    }
    models
}

/// Returns the GGUF files of that role. Of files whose names mention a layer that drafts tokens, those far smaller than
/// the largest model hold that layer alone.
fn with_role(files: &[Found], wanted: Role) -> Vec<Gguf<'_>> {
    /// The least part of a model's bytes that a file with a whole model has.
    const LEAST: u64 = 4;
    let all = ggufs(files);
    let bytes = |model: &Gguf<'_>| model.choice().bytes.unwrap_or(0);
    let models = all.iter().filter(|model| Role::of(model.stem) == Role::Model);
    let largest = models.map(bytes).max().unwrap_or(0);
    let role = |model: &Gguf<'_>| match Role::of(model.stem) {
        Role::Model if mentions_draft_layer(model.stem) && bytes(model) < largest / LEAST => {
            Role::DraftLayer
        }
        role => role,
    };
    all.into_iter().filter(|model| role(model) == wanted).collect()
}

/// Returns the GGUF files among `files` that hold a layer that drafts tokens for a model of the repository.
pub fn draft_layers(files: &[Found]) -> Vec<Choice> {
    with_role(files, Role::DraftLayer).iter().map(Gguf::choice).collect()
}

fn is_shard(path: &str) -> bool {
    split_name(path, ".gguf").is_some()
}

/// Parses `NAME-00001-of-00003` plus `ending` into `NAME`, 1 and 3; `None` for any other path.
pub(crate) fn split_name<'p>(path: &'p str, ending: &str) -> Option<(&'p str, u32, u32)> {
    let number = |text: &str| {
        let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let (rest, count) = path.strip_suffix(ending)?.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    Some((name, number(part)?, number(count)?))
}

/// Returns whether `text` matches `pattern`, where `*` is any text including `/`, and `?` any character. Takes at most
/// length × length steps.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Backtracking position of the last star, which consumes one more character each time.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chosen(files: &[&str], wanted: Wanted<'_>) -> Result<Selection> {
        let repository = Repository::new("a/b").unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|path| Found { path: (*path).to_owned(), bytes: Some(1 << 20) })
            .collect();
        choose(&repository, &found, &wanted)
    }

    #[test]
    fn a_safetensors_model_comes_with_its_named_chat_templates() {
        let files = [
            "additional_chat_templates/rag.jinja",
            "config.json",
            "docs/a.jinja",
            "model.safetensors",
        ];
        let selection = chosen(&files, Wanted::Model).unwrap();
        assert_eq!(selection.paths, [files[0], files[1], files[3]]);
    }

    #[test]
    fn a_safetensors_model_comes_with_what_it_needs() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "x.gguf",
        ];
        let selection = chosen(&files, Wanted::Model).unwrap();
        assert_eq!(selection.run, None);
        assert_eq!(selection.paths, [files[2], files[4], files[5], files[6], files[9]]);
    }

    #[test]
    fn the_only_gguf_is_taken_and_several_are_listed() {
        let one = chosen(&["README.md", "m-i2_s.gguf", "mmproj-f16.gguf"], Wanted::Model).unwrap();
        assert_eq!(
            (one.paths, one.run.as_deref()),
            (vec!["m-i2_s.gguf".to_owned()], Some("m-i2_s.gguf"))
        );
        let split = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        let whole = chosen(&split, Wanted::Model).unwrap();
        assert_eq!((whole.paths.len(), whole.run.as_deref()), (2, Some(split[0])));
        let several =
            chosen(&["a-00001-of-00001.gguf", "m.TQ1_0.gguf", "m.TQ2_0.gguf"], Wanted::Model)
                .unwrap_err();
        let text = several.to_string();
        assert!(
            text.contains("3 models") && text.contains("-m a/b:m.TQ2_0.gguf (1.0 MiB)"),
            "{text}"
        );
        assert!(matches!(chosen(&["x.bin"], Wanted::Model), Err(Error::NoModel { .. })));
    }

    #[test]
    fn files_are_found_by_path_or_type() {
        let files = [
            "Q8_0/x-00001-of-00002.gguf",
            "Q8_0/x-00002-of-00002.gguf",
            "config.json",
            "x-tq1_0.gguf",
            "x-tq2_0.gguf",
        ];
        let paths = |name| chosen(&files, Wanted::File(name)).unwrap().paths;
        assert_eq!(paths("config.json"), ["config.json"]);
        assert_eq!(paths("TQ2_0"), ["x-tq2_0.gguf"]);
        assert_eq!(paths("q8_0"), files[..2]);
        assert_eq!(paths(files[1]), files[..2]);
        assert!(matches!(chosen(&files, Wanted::File("2_0")), Err(Error::NoFile { .. })));
        assert!(matches!(chosen(&files, Wanted::File("y.gguf")), Err(Error::NoFile { .. })));
    }

    #[test]
    fn patterns_take_and_leave() {
        let files = ["a/x.json", "config.json", "m.gguf", "n.gguf"];
        let pick = |include: &[&str], exclude: &[&str]| {
            let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            let (include, exclude) = (own(include), own(exclude));
            chosen(&files, Wanted::Matching { include: &include, exclude: &exclude })
        };
        assert_eq!(pick(&["*.json"], &[]).unwrap().paths, files[..2]);
        let one = pick(&[], &["n.*", "a/*"]).unwrap();
        assert_eq!((one.paths.len(), one.run.as_deref()), (2, Some("m.gguf")));
        assert_eq!(pick(&["*.gguf"], &[]).unwrap().run, None);
        assert!(matches!(pick(&["*.txt"], &[]), Err(Error::NoMatch { .. })));
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, text) in
            [("*", ""), ("a*c", "a/b/c"), ("?.x", "é.x"), ("**a", "aba"), ("a*a*a", "aaa")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("?", ""), ("a*c", "ab"), ("*.json", "x.jsonl"), ("a*a*a", "aa")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        // A pattern with exponential cost in a naive matcher.
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }

    proptest! {
        #[test]
        fn the_text_with_holes_matches(text in "[ab/]{0,12}", holes in proptest::collection::vec(any::<bool>(), 12)) {
            let pattern: String = text.chars().zip(&holes).map(|(c, &hole)| if hole { '*' } else { c }).collect();
            prop_assert!(matches(&pattern, &text));
            let question: String = text.chars().zip(&holes).map(|(c, &hole)| if hole { '?' } else { c }).collect();
            prop_assert!(matches(&question, &text));
        }
    }
}
