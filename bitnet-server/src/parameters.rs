//! The numbers and texts of a request, each checked before anything runs.

use bitnet_inference::GenerateOptions;
use bitnet_inference::sampler::SamplerConfig;
use serde_json::{Map, Value};

use crate::constraint::{self, Asked};
use crate::error::ApiError;
use crate::state::AppState;

/// Stop texts, and bytes of each.
const MAX_STOPS: usize = 16;
const MAX_STOP: usize = 1024;
/// Other tokens whose log probabilities are given, at most.
const MAX_LOGPROBS: usize = 20;
/// Tokens with a bias, at most.
const MAX_BIAS: usize = 1024;
/// Tokens that are written unless a request says otherwise: all that fit.
const ALL: usize = usize::MAX;
/// Those of `/v1/completions`, as at OpenAI.
const COMPLETION: usize = 16;

/// What a request asks for beside its prompt.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    pub(crate) options: GenerateOptions,
    /// What the texts must follow; compiled before they are written.
    pub(crate) constraint: Option<Asked>,
    pub(crate) choices: usize,
    pub(crate) logprobs: Option<usize>,
    pub(crate) echo: bool,
    pub(crate) stream: bool,
    /// A last event of a stream has the usage.
    pub(crate) include_usage: bool,
    /// Events tell how much of the prompt was read.
    pub(crate) return_progress: bool,
}

impl Parameters {
    /// Those of OpenAI's conversations.
    pub(crate) fn of_chat(body: &Map<String, Value>, state: &AppState) -> Result<Self, ApiError> {
        let fields = Fields::new(body, &[]);
        let logprobs = fields.logprobs()?;
        let tokens = match fields.tokens("max_completion_tokens")? {
            None => fields.tokens("max_tokens")?,
            some => some,
        };
        Ok(Self { logprobs, ..Self::common(fields, state, tokens.unwrap_or(ALL))? })
    }

    pub(crate) fn of_completion(
        body: &Map<String, Value>,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        let fields = Fields::new(body, &[]);
        let logprobs = fields.count("logprobs", MAX_LOGPROBS)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        if fields.flag("stream")? == Some(true) && echo {
            return Err(ApiError::field("echo", "is not supported with stream: true"));
        }
        for name in ["suffix", "best_of"] {
            let value = body.get(name).filter(|value| !value.is_null());
            if value.is_some_and(|value| value.as_u64() != Some(1)) {
                return Err(ApiError::field(name, "is not supported"));
            }
        }
        let tokens = fields.tokens("max_tokens")?.unwrap_or(COMPLETION);
        Ok(Self { logprobs, echo, ..Self::common(fields, state, tokens)? })
    }

    /// Those of an API whose requests have one answer; `fields` has the numbers of the sampler.
    pub(crate) fn of_one_answer(
        fields: Fields<'_>,
        state: &AppState,
        max_tokens: Option<usize>,
    ) -> Result<Self, ApiError> {
        let common = Self::common(fields, state, max_tokens.unwrap_or(ALL))?;
        Ok(Self { choices: 1, stream: false, include_usage: false, ..common })
    }

    /// Adds a constraint that the API has a field of its own for.
    ///
    /// # Errors
    /// For a second one.
    pub(crate) fn follow(&mut self, asked: Option<Asked>) -> Result<(), ApiError> {
        self.constraint = constraint::one(self.constraint.take().into_iter().chain(asked))?;
        Ok(())
    }

    fn common(fields: Fields<'_>, state: &AppState, max_tokens: usize) -> Result<Self, ApiError> {
        fields.check_supported()?;
        let default = state.model().default_sampling();
        let vocab_size = state.model().config().vocab_size;
        let or = |value: Option<f32>, default: f32| value.unwrap_or(default);
        let repetition = match fields.number("repetition_penalty")? {
            None => fields.number("repeat_penalty")?,
            some => some,
        };
        let sampler = SamplerConfig {
            temperature: or(fields.number("temperature")?, default.temperature),
            top_k: fields.count("top_k", usize::MAX)?.unwrap_or(default.top_k),
            top_p: or(fields.number("top_p")?, default.top_p),
            min_p: or(fields.number("min_p")?, default.min_p),
            typical_p: or(fields.number("typical_p")?, default.typical_p),
            repetition_penalty: or(repetition, default.repetition_penalty),
            frequency_penalty: or(fields.number("frequency_penalty")?, 0.0),
            presence_penalty: or(fields.number("presence_penalty")?, 0.0),
            penalty_window: default.penalty_window,
            logit_bias: fields.logit_bias()?,
            seed: fields.seed()?.unwrap_or_else(|| state.seed()),
        };
        sampler.validate(vocab_size)?;
        let options = GenerateOptions {
            sampler,
            max_tokens,
            stop: fields.stop()?,
            ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
            draft: state.draft,
            ..GenerateOptions::default()
        };
        let choices = fields.count("n", state.engine.max_sequences())?.unwrap_or(1);
        if choices == 0 {
            return Err(ApiError::field("n", "must be at least 1"));
        }
        let stream_options = fields.body.get("stream_options").and_then(Value::as_object);
        let include_usage = stream_options.and_then(|options| options.get("include_usage"));
        Ok(Self {
            options,
            constraint: constraint::asked(fields.body)?,
            choices,
            logprobs: None,
            echo: false,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage: include_usage.and_then(Value::as_bool).unwrap_or(false),
            return_progress: fields.flag("return_progress")?.unwrap_or(false),
        })
    }
}

/// OpenAI's name of a field, and how another API spells it.
pub(crate) type Spelling = (&'static str, &'static str);

/// The fields of a request by OpenAI's names; `null` is as if a field was not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    body: &'a Map<String, Value>,
    spellings: &'static [Spelling],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(body: &'a Map<String, Value>, spellings: &'static [Spelling]) -> Self {
        Self { body, spellings }
    }

    fn spelled<'n>(&self, name: &'n str) -> &'n str {
        let spelling = self.spellings.iter().find(|(of_openai, _)| *of_openai == name);
        spelling.map_or(name, |(_, spelled)| spelled)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.body.get(self.spelled(name)).filter(|value| !value.is_null())
    }

    /// The log probabilities of so many other tokens, if any are wanted.
    pub(crate) fn logprobs(&self) -> Result<Option<usize>, ApiError> {
        let wants = self.flag("logprobs")?.unwrap_or(false);
        let top = self.count("top_logprobs", MAX_LOGPROBS)?;
        if top.is_some() && !wants {
            return Err(self.wrong("top_logprobs", "needs logprobs: true"));
        }
        Ok(wants.then(|| top.unwrap_or(0)))
    }

    fn wrong(&self, name: &str, problem: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.spelled(name), problem)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|n| n.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(name, "must be a number"))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "must be true or false"))
    }

    pub(crate) fn count(&self, name: &str, most: usize) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        match count.filter(|&count| count <= most) {
            Some(count) => Ok(Some(count)),
            None if most == usize::MAX => {
                Err(self.wrong(name, "must be a whole number, 0 or more"))
            }
            None => Err(self.wrong(name, format!("must be a whole number from 0 to {most}"))),
        }
    }

    /// A limit of tokens; -1 is none.
    pub(crate) fn tokens(&self, name: &str) -> Result<Option<usize>, ApiError> {
        match self.get(name).and_then(Value::as_i64) {
            Some(-1) => Ok(Some(ALL)),
            _ => self.count(name, usize::MAX),
        }
    }

    fn seed(&self) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get("seed") else { return Ok(None) };
        match (value.as_u64(), value.as_i64()) {
            // llama.cpp's clients ask for a random seed with -1.
            (_, Some(-1)) => Ok(None),
            (Some(seed), _) => Ok(Some(seed)),
            (_, Some(seed)) => Ok(Some(seed as u64)),
            _ => Err(self.wrong("seed", "must be a whole number")),
        }
    }

    fn stop(&self) -> Result<Vec<String>, ApiError> {
        let stops = match self.get("stop") {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
                let wrong = || self.wrong("stop", "must be a text or a list of texts");
                texts.collect::<Option<Vec<_>>>().ok_or_else(wrong)?
            }
            Some(_) => return Err(self.wrong("stop", "must be a text or a list of texts")),
        };
        if stops.len() > MAX_STOPS || stops.iter().any(|text| text.len() > MAX_STOP) {
            let problem = format!("at most {MAX_STOPS} texts of {MAX_STOP} bytes");
            return Err(self.wrong("stop", problem));
        }
        Ok(stops)
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let wrong = || self.wrong("logit_bias", "must map tokens to numbers from -100 to 100");
        let Some(value) = self.get("logit_bias") else { return Ok(Vec::new()) };
        let map = value.as_object().ok_or_else(wrong)?;
        if map.len() > MAX_BIAS {
            return Err(self.wrong("logit_bias", format!("at most {MAX_BIAS} tokens")));
        }
        let bias = |(token, bias): (&String, &Value)| {
            let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
            // -100 forbids a token, as OpenAI documents it.
            let bias = if bias == -100.0 { f32::NEG_INFINITY } else { bias as f32 };
            Some((token.parse().ok()?, bias))
        };
        map.iter().map(bias).collect::<Option<Vec<_>>>().ok_or_else(wrong)
    }

    /// Refuses what can't be obeyed, rather than to write without it.
    fn check_supported(&self) -> Result<(), ApiError> {
        for name in ["functions", "function_call", "audio", "modalities"] {
            let is_text = self.get(name).is_some_and(|v| *v == serde_json::json!(["text"]));
            if self.get(name).is_some() && !is_text {
                return Err(self.wrong(name, "is not supported"));
            }
        }
        Ok(())
    }
}
