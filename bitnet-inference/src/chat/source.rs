//! Where a chat template comes from: built in, given by the user, or one of those that come with a model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::{Builtin, ChatTemplate, MAX_SOURCE, TemplateError};

/// The name of the template that is used unless another one is requested.
const DEFAULT: &str = "default";
/// Most templates that are read from one model.
const MAX_TEMPLATES: usize = 64;

/// A chat template that replaces a model's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateChoice {
    /// One of the built-in templates.
    Builtin(Builtin),
    /// A Jinja source.
    Source(String),
    /// One of the templates that come with the model, by its name.
    Named(String),
}

/// The templates that come with a model.
#[derive(Debug, Default)]
pub(crate) struct ModelTemplates {
    /// Name, where it stands, and its source.
    entries: Vec<(String, String, Result<String, TemplateError>)>,
}

/// What [`ModelTemplates::select`] decided: the template or why it cannot be used, and where it comes from.
pub(crate) type Selected = (Option<Result<ChatTemplate, TemplateError>>, String);

impl ModelTemplates {
    /// The templates of a Hugging Face folder: `chat_template.jinja` and `additional_chat_templates/*.jinja`, or
    /// without any of these the `chat_template` of `tokenizer_config.json`.
    pub(crate) fn in_folder(folder: &Path, tokenizer_config: Option<&Value>) -> Self {
        let mut templates = Self::default();
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            templates.add(DEFAULT, "chat_template.jinja", read(&file, "chat_template.jinja"));
        }
        let more = std::fs::read_dir(folder.join("additional_chat_templates"));
        let mut more: Vec<_> = more.into_iter().flatten().flatten().map(|e| e.path()).collect();
        more.sort();
        for path in more {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(name) = name.strip_suffix(".jinja") {
                let place = format!("additional_chat_templates/{name}.jinja");
                templates.add(name, &place, read(&path, &place));
            }
        }
        if templates.entries.is_empty() {
            templates.add_setting(tokenizer_config.and_then(|config| config.get("chat_template")));
        }
        templates
    }

    /// The `chat_template` of a `tokenizer_config.json`: a text, or a list of names and texts.
    fn add_setting(&mut self, setting: Option<&Value>) {
        const PLACE: &str = "tokenizer_config.json";
        let Some(setting) = setting.filter(|setting| !setting.is_null()) else { return };
        let wrong = || TemplateError::Unreadable {
            name: PLACE.into(),
            problem: "chat_template is neither a text nor a list of {\"name\", \"template\"}"
                .into(),
        };
        if let Some(source) = setting.as_str() {
            return self.add(DEFAULT, PLACE, Ok(source.to_owned()));
        }
        let Some(list) = setting.as_array() else { return self.add(DEFAULT, PLACE, Err(wrong())) };
        for entry in list {
            let name = entry.get("name").and_then(Value::as_str).unwrap_or(DEFAULT);
            let source = entry.get("template").and_then(Value::as_str);
            let place = format!("{PLACE}, template {name}");
            self.add(name, &place, source.map(str::to_owned).ok_or_else(wrong));
        }
    }

    /// Adds a template; of two with one name the later one counts.
    pub(crate) fn add(&mut self, name: &str, place: &str, source: Result<String, TemplateError>) {
        self.entries.retain(|(other, ..)| other != name);
        if self.entries.len() < MAX_TEMPLATES {
            self.entries.push((name.to_owned(), place.to_owned(), source));
        }
    }

    /// The source of the template used by default, if it can be read.
    pub(crate) fn default_source(&self) -> Option<&str> {
        let entry = self.entries.iter().find(|(name, ..)| name == DEFAULT)?;
        entry.2.as_deref().ok()
    }

    /// The sources of the templates beside the default one that can be read, by name.
    pub(crate) fn named_sources(&self) -> BTreeMap<String, String> {
        let named = self.entries.iter().filter(|(name, ..)| name != DEFAULT);
        named.filter_map(|(name, _, s)| Some((name.clone(), s.as_ref().ok()?.clone()))).collect()
    }

    /// The template that a choice means; without one the model's default.
    pub(crate) fn select(self, choice: Option<&TemplateChoice>) -> Selected {
        let (made, fact) = match choice {
            Some(TemplateChoice::Builtin(kind)) => {
                (ChatTemplate::builtin(*kind), format!("built in: {}", kind.name()))
            }
            Some(TemplateChoice::Source(source)) => {
                (ChatTemplate::new(source, "--chat-template"), "given by the user".into())
            }
            Some(TemplateChoice::Named(name)) => self.named(name),
            None if self.entries.is_empty() => return (None, "none".into()),
            None => self.named(DEFAULT),
        };
        let fact = match &made {
            Ok(_) => fact,
            Err(problem) => format!("{fact}; chat cannot use it: {problem}"),
        };
        (Some(made), fact)
    }

    fn named(self, wanted: &str) -> (Result<ChatTemplate, TemplateError>, String) {
        let names: Vec<String> = self.entries.iter().map(|(name, ..)| name.clone()).collect();
        match self.entries.into_iter().find(|(name, ..)| name == wanted) {
            Some((_, place, source)) => {
                (source.and_then(|source| ChatTemplate::new(&source, &place)), place)
            }
            None => {
                let unknown = TemplateError::UnknownName { name: wanted.to_owned(), names };
                (Err(unknown), format!("none named {wanted}"))
            }
        }
    }
}

/// Reads a template, at most a byte more than is taken.
fn read(path: &Path, name: &str) -> Result<String, TemplateError> {
    let unreadable = |problem: String| TemplateError::Unreadable { name: name.into(), problem };
    let io = |error: std::io::Error| unreadable(error.to_string());
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(unreadable("not a regular file".into()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_SOURCE as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > MAX_SOURCE {
        let size = std::fs::metadata(path).map_err(io)?.len();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        return Err(TemplateError::TooLong { name: name.into(), size, limit: MAX_SOURCE });
    }
    String::from_utf8(bytes).map_err(|error| unreadable(format!("not UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn from_config(setting: Value) -> ModelTemplates {
        ModelTemplates::in_folder(
            Path::new("no/such/folder"),
            Some(&json!({"chat_template": setting})),
        )
    }

    fn source((template, _): Selected) -> String {
        template.unwrap().unwrap().source().to_owned()
    }

    #[test]
    fn lists_of_named_templates_have_a_default() {
        let list = json!([{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]);
        assert_eq!(source(from_config(list.clone()).select(None)), "D");
        let choice = TemplateChoice::Named("rag".into());
        assert_eq!(source(from_config(list).select(Some(&choice))), "R");
    }

    #[test]
    fn lists_without_a_default_are_refused_by_name() {
        let (template, fact) = from_config(json!([{"name": "rag", "template": "R"}])).select(None);
        match template {
            Some(Err(TemplateError::UnknownName { names, .. })) => assert_eq!(names, ["rag"]),
            other => panic!("{other:?}"),
        }
        assert!(fact.contains("rag") && fact.contains("chatml"), "{fact}");
    }

    #[test]
    fn unusable_templates_are_stored_as_errors() {
        for setting in [json!(7), json!([{"name": "default"}]), json!("{{ x | no_such }}")] {
            assert!(matches!(from_config(setting).select(None).0, Some(Err(_))));
        }
        assert!(from_config(Value::Null).select(None).0.is_none());
        let builtin = TemplateChoice::Builtin(Builtin::ChatMl);
        assert_eq!(source(from_config(json!(7)).select(Some(&builtin))), Builtin::ChatMl.source());
    }

    #[test]
    fn files_of_a_folder_come_before_the_setting() {
        let folder = tempfile::tempdir().unwrap();
        let setting = json!({"chat_template": "S"});
        let read = |choice: Option<&TemplateChoice>| {
            ModelTemplates::in_folder(folder.path(), Some(&setting)).select(choice)
        };
        assert_eq!(source(read(None)), "S");
        std::fs::write(folder.path().join("chat_template.jinja"), "F").unwrap();
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        std::fs::write(folder.path().join("additional_chat_templates/tool_use.jinja"), "T")
            .unwrap();
        assert_eq!(source(read(None)), "F");
        let choice = TemplateChoice::Named("tool_use".into());
        assert_eq!(source(read(Some(&choice))), "T");
        std::fs::write(folder.path().join("chat_template.jinja"), [b'a', 0xFF]).unwrap();
        assert!(matches!(read(None).0, Some(Err(TemplateError::Unreadable { .. }))));
        std::fs::write(folder.path().join("chat_template.jinja"), " ".repeat(1 << 20)).unwrap();
        assert!(matches!(read(None).0, Some(Err(TemplateError::TooLong { .. }))));
    }
}
