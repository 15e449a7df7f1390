//! Embeddings of texts: the states of a text's tokens after the last norm, pooled to one vector.

mod pooling;

use bitnet_core::kv::KvType;

use self::pooling::Pool;
pub use self::pooling::Pooling;
use crate::loader::EmbeddingSettings;
use crate::models::{Decoder, Sequence};
use crate::session::PREFILL_CHUNK;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::{InferenceError, Model, Result};

/// What stands before each text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Prompt {
    /// The model's default prompt, if its files name one.
    #[default]
    Default,
    /// This text.
    Text(String),
    /// The prompt of this name in the model's files.
    Named(String),
}

/// How texts become embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedOptions {
    /// The pooling; `None`: the model's own, or the mean where its files name none, as in sentence-transformers.
    pub pooling: Option<Pooling>,
    /// Whether vectors are divided by their length.
    pub normalize: bool,
    /// What stands before each text.
    pub prompt: Prompt,
    /// The most tokens of a text; `None`: the model's context, which is also the upper limit.
    pub max_tokens: Option<usize>,
    /// Whether a text with more tokens loses those at its end, instead of being an error.
    pub truncate: bool,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            pooling: None,
            normalize: true,
            prompt: Prompt::Default,
            max_tokens: None,
            truncate: false,
        }
    }
}

/// The embedding of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Tokens of the text, with its prompt and the tokens that begin and end a text.
    pub tokens: usize,
    /// Tokens at the end of the text that were left out.
    pub left_out: usize,
    /// The vector, `[hidden]`.
    pub values: Vec<f32>,
}

impl Embedding {
    /// Returns the cosine of the angle to another embedding of the same model; 0 if one of them is 0.
    pub fn cosine(&self, other: &Self) -> f64 {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let (a, b) = (&self.values[..], &other.values[..]);
        let lengths = (dot(a, a) * dot(b, b)).sqrt();
        if lengths > 0.0 { (dot(a, b) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

/// The tokens of a text.
struct Tokens {
    ids: Vec<u32>,
    left_out: usize,
}

impl Model {
    /// What the model's files say about embeddings.
    ///
    /// # Errors
    /// [`InferenceError::Config`] naming the file and the key that is not supported.
    pub fn embedding_settings(&self) -> Result<&EmbeddingSettings> {
        self.embedding.as_ref().map_err(|fault| fault.clone().into())
    }

    /// Returns an embedding of each text. Texts are read together where they are short; each result equals that of the text
    /// alone.
    ///
    /// Any decoder can do this: without training for it, the vectors of a model that writes text are of little use for
    /// comparisons.
    ///
    /// ```
    /// use bitnet_inference::{EmbedOptions, Model};
    ///
    /// let model = Model::embedded()?;
    /// let texts = ["Once upon a time", "A dog ran home."];
    /// let embeddings = model.embed(&texts, &EmbedOptions::default())?;
    /// assert_eq!(embeddings[1].values.len(), model.config().hidden);
    /// assert!(embeddings[0].cosine(&embeddings[1]) <= 1.0);
    /// # Ok::<(), bitnet_inference::InferenceError>(())
    /// ```
    ///
    /// # Errors
    /// If the model has no tokenizer or it refuses a text; [`InferenceError::Resource`] for a text with too many tokens;
    /// [`InferenceError::Parameter`] for a text without tokens, a prompt that the model does not have and an impossible
    /// limit; those of [`Model::embedding_settings`] unless `options` name the pooling, and of [`Model::embed_tokens`].
    pub fn embed<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Embedding>> {
        let tokenizer = self.tokenizer().ok_or_else(|| InferenceError::no_tokenizer("text"))?;
        let pooling = self.pooling(options)?;
        let prompt = self.prompt(options)?;
        let limit = self.token_limit(options)?;
        let tokens = texts.iter().map(|text| {
            let text = format!("{prompt}{}", text.as_ref());
            encode(tokenizer, &text, limit, options.truncate)
        });
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        let ids: Vec<&[u32]> = tokens.iter().map(|tokens| &tokens.ids[..]).collect();
        let vectors = self.embed_tokens(&ids, pooling, options.normalize)?;
        let embeddings = tokens.iter().zip(vectors).map(|(tokens, values)| Embedding {
            tokens: tokens.ids.len(),
            left_out: tokens.left_out,
            values,
        });
        Ok(embeddings.collect())
    }

    /// Returns the pooled states `[hidden]` of each sequence of tokens.
    ///
    /// # Errors
    /// [`InferenceError::Parameter`] for a sequence without tokens, [`InferenceError::NonFiniteEmbedding`], and those of
    /// [`Decoder::forward`].
    pub fn embed_tokens(
        &self,
        sequences: &[&[u32]],
        pooling: Pooling,
        normalize: bool,
    ) -> Result<Vec<Vec<f32>>> {
        if let Some(index) = sequences.iter().position(|tokens| tokens.is_empty()) {
            return Err(InferenceError::Parameter {
                parameter: "text",
                value: format!("number {index}"),
                problem: "it has no tokens; leave it out, or give it some text",
            });
        }
        let mut vectors = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while !rest.is_empty() {
            let (together, others) = rest.split_at(read_together(rest));
            vectors.extend(pooled(self.decoder(), together, pooling, normalize, self.kv())?);
            rest = others;
        }
        match vectors.iter().position(|vector| vector.iter().any(|x| !x.is_finite())) {
            None => Ok(vectors),
            Some(text) => {
                Err(InferenceError::NonFiniteEmbedding { file: self.facts().file.clone(), text })
            }
        }
    }

    fn pooling(&self, options: &EmbedOptions) -> Result<Pooling> {
        match options.pooling {
            Some(pooling) => Ok(pooling),
            None => Ok(self.embedding_settings()?.pooling.unwrap_or(Pooling::Mean)),
        }
    }

    /// What stands before each text.
    fn prompt<'a>(&'a self, options: &'a EmbedOptions) -> Result<&'a str> {
        let settings = self.embedding.as_ref().ok();
        let named = |name: &str| -> Result<&'a str> {
            let found = settings.and_then(|settings| settings.prompts.get(name));
            found.map(String::as_str).ok_or_else(|| InferenceError::Parameter {
                parameter: "prompt name",
                value: name.to_owned(),
                problem: "config_sentence_transformers.json has no prompt of that name",
            })
        };
        let default = settings.and_then(|settings| settings.default_prompt.as_deref());
        let prompt = match &options.prompt {
            Prompt::Text(text) => text,
            Prompt::Named(name) => named(name)?,
            Prompt::Default => default.map_or(Ok(""), named)?,
        };
        if settings.is_some_and(|settings| !settings.include_prompt) && !prompt.is_empty() {
            let what = format!("{}: include_prompt false with a prompt", self.facts().file);
            let instead = "give the prompt as a text of its own to have it pooled with the text";
            return Err(InferenceError::unsupported(what, instead));
        }
        Ok(prompt)
    }

    fn token_limit(&self, options: &EmbedOptions) -> Result<usize> {
        let most = self.config().full_context();
        match options.max_tokens {
            None => Ok(most),
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(limit) => Err(InferenceError::Parameter {
                parameter: "most tokens",
                value: limit.to_string(),
                problem: "at least 1 and at most the model's context",
            }),
        }
    }
}

/// How many of the sequences are read in one pass: whole ones up to a chunk, or one that is longer.
fn read_together(sequences: &[&[u32]]) -> usize {
    let mut total = 0;
    let fits = |tokens: &&&[u32]| {
        total += tokens.len();
        total <= PREFILL_CHUNK
    };
    sequences.iter().take_while(fits).count().max(1)
}

/// The pooled states of sequences that are read together.
fn pooled(
    decoder: &Decoder,
    sequences: &[&[u32]],
    pooling: Pooling,
    normalize: bool,
    kv: KvType,
) -> Result<Vec<Vec<f32>>> {
    let hidden = decoder.config.hidden;
    // The last norm may hold a factor on logits.
    let factor = decoder.config.scales.map_or(1.0, |scales| 1.0 / scales.logits);
    let mut pools: Vec<Pool> = sequences.iter().map(|_| Pool::new(pooling, hidden)).collect();
    let caches = sequences.iter().map(|tokens| decoder.new_cache(tokens.len(), kv));
    let mut caches = caches.collect::<Result<Vec<_>>>()?;
    if let ([tokens], [cache], [pool]) = (sequences, &mut caches[..], &mut pools[..]) {
        for tokens in tokens.chunks(PREFILL_CHUNK) {
            pool.add(decoder.states(&mut [Sequence { tokens, cache }])?.f32()?);
        }
    } else {
        let both = sequences.iter().zip(&mut caches);
        let mut read: Vec<_> = both.map(|(&tokens, cache)| Sequence { tokens, cache }).collect();
        let states = decoder.states(&mut read)?;
        let mut rest = states.f32()?;
        for (tokens, pool) in sequences.iter().zip(&mut pools) {
            let (own, others) = rest.split_at(tokens.len() * hidden);
            pool.add(own);
            rest = others;
        }
    }
    Ok(pools.into_iter().map(|pool| pool.finish(factor, normalize)).collect())
}

/// The tokens of a text, at most `limit`. Where some are left out, the tokens that begin and end a text stay.
fn encode(tokenizer: &Tokenizer, text: &str, limit: usize, truncate: bool) -> Result<Tokens> {
    let with =
        |add_special| tokenizer.encode(text, EncodeOptions { add_special, parse_special: true });
    let ids = with(true)?;
    if ids.len() <= limit {
        return Ok(Tokens { ids, left_out: 0 });
    }
    if !truncate {
        return Err(InferenceError::Resource {
            what: "tokens of a text",
            used: ids.len(),
            limit,
            advice: "shorten it, or ask for its beginning only (truncate)",
        });
    }
    let plain = with(false)?;
    let before = ids.windows(plain.len().max(1)).position(|part| part == plain).unwrap_or(0);
    let after = ids.len().saturating_sub(before + plain.len()).min(limit);
    let left_out = ids.len() - limit;
    let kept = ids[..limit - after].iter().chain(&ids[ids.len() - after..]);
    Ok(Tokens { ids: kept.copied().collect(), left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sequences_are_read_together_and_a_long_one_alone() {
        let (short, long) = ([1; 100], [1; 300]);
        assert_eq!(read_together(&[&short, &short, &short]), 2);
        assert_eq!(read_together(&[&long, &short]), 1);
        assert_eq!(read_together(&[&short, &long]), 1);
        assert_eq!(read_together(&[&short]), 1);
    }

    #[test]
    fn cosines_are_bounded_and_a_zero_has_none() {
        let of = |values: &[f32]| Embedding { tokens: 1, left_out: 0, values: values.to_vec() };
        assert_eq!(of(&[3.0, 4.0]).cosine(&of(&[6.0, 8.0])), 1.0);
        assert_eq!(of(&[1.0, 0.0]).cosine(&of(&[0.0, 2.0])), 0.0);
        assert_eq!(of(&[0.0, 0.0]).cosine(&of(&[0.0, 2.0])), 0.0);
    }
}
