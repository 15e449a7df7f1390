//! The numbers and texts of a request, each checked before anything runs.

use bitnet_inference::GenerateOptions;
use bitnet_inference::sampler::SamplerConfig;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::state::AppState;

/// Prompts of one request, at most.
const MAX_PROMPTS: usize = 64;
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
pub(super) struct Parameters {
    pub(super) options: GenerateOptions,
    pub(super) choices: usize,
    pub(super) logprobs: Option<usize>,
    pub(super) echo: bool,
    pub(super) stream: bool,
    /// A last event of a stream has the usage.
    pub(super) include_usage: bool,
    /// Events tell how much of the prompt was read.
    pub(super) return_progress: bool,
}

/// A prompt of `/v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl Parameters {
    pub(super) fn of_chat(body: &Map<String, Value>, state: &AppState) -> Result<Self, ApiError> {
        let fields = Fields(body);
        // The prompt always ends where a new answer begins.
        for (name, unsupported) in
            [("continue_final_message", true), ("add_generation_prompt", false)]
        {
            if fields.flag(name)? == Some(unsupported) {
                let problem =
                    format!("{unsupported} is not supported: an answer is always a new one");
                return Err(ApiError::field(name, problem));
            }
        }
        let wants = fields.flag("logprobs")?.unwrap_or(false);
        let top = fields.count("top_logprobs", MAX_LOGPROBS)?;
        if top.is_some() && !wants {
            return Err(ApiError::field("top_logprobs", "needs logprobs: true"));
        }
        let logprobs = wants.then(|| top.unwrap_or(0));
        let tokens = match fields.tokens("max_completion_tokens")? {
            None => fields.tokens("max_tokens")?,
            some => some,
        };
        Ok(Self { logprobs, ..Self::common(fields, state, tokens.unwrap_or(ALL))? })
    }

    pub(super) fn of_completion(
        body: &Map<String, Value>,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        let fields = Fields(body);
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

    fn common(fields: Fields<'_>, state: &AppState, max_tokens: usize) -> Result<Self, ApiError> {
        fields.check_response_format()?;
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
            ..GenerateOptions::default()
        };
        let choices = fields.count("n", state.engine.max_sequences())?.unwrap_or(1);
        if choices == 0 {
            return Err(ApiError::field("n", "must be at least 1"));
        }
        let stream_options = fields.0.get("stream_options").and_then(Value::as_object);
        let include_usage = stream_options.and_then(|options| options.get("include_usage"));
        Ok(Self {
            options,
            choices,
            logprobs: None,
            echo: false,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage: include_usage.and_then(Value::as_bool).unwrap_or(false),
            return_progress: fields.flag("return_progress")?.unwrap_or(false),
        })
    }
}

/// Returns the prompts of a completion: a text, a list of texts, tokens, or lists of tokens.
pub(super) fn prompts(body: &Map<String, Value>) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || {
        let problem = "must be a text, a list of texts, a list of tokens, or a list of such lists";
        ApiError::field("prompt", problem)
    };
    let tokens = |value: &Value| -> Option<Vec<u32>> {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        value.as_array()?.iter().map(token).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        list => tokens(list).filter(|t| !t.is_empty()).map(Prompt::Tokens).ok_or_else(wrong),
    };
    match body.get("prompt").ok_or_else(wrong)? {
        Value::Array(list) if list.first().is_some_and(|first| !first.is_number()) => {
            if list.len() > MAX_PROMPTS {
                return Err(ApiError::field("prompt", format!("at most {MAX_PROMPTS} prompts")));
            }
            list.iter().map(one).collect()
        }
        value => Ok(vec![one(value)?]),
    }
}

/// The fields of a request; `null` is as if a field was not there.
#[derive(Debug, Clone, Copy)]
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|n| n.is_finite());
        number.map(Some).ok_or_else(|| ApiError::field(name, "must be a number"))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| ApiError::field(name, "must be true or false"))
    }

    fn count(&self, name: &str, most: usize) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        match count.filter(|&count| count <= most) {
            Some(count) => Ok(Some(count)),
            None if most == usize::MAX => {
                Err(ApiError::field(name, "must be a whole number, 0 or more"))
            }
            None => Err(ApiError::field(name, format!("must be a whole number from 0 to {most}"))),
        }
    }

    /// A limit of tokens; -1 is none.
    fn tokens(&self, name: &str) -> Result<Option<usize>, ApiError> {
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
            _ => Err(ApiError::field("seed", "must be a whole number")),
        }
    }

    fn stop(&self) -> Result<Vec<String>, ApiError> {
        let stops = match self.get("stop") {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
                let wrong = || ApiError::field("stop", "must be a text or a list of texts");
                texts.collect::<Option<Vec<_>>>().ok_or_else(wrong)?
            }
            Some(_) => return Err(ApiError::field("stop", "must be a text or a list of texts")),
        };
        if stops.len() > MAX_STOPS || stops.iter().any(|text| text.len() > MAX_STOP) {
            let problem = format!("at most {MAX_STOPS} texts of {MAX_STOP} bytes");
            return Err(ApiError::field("stop", problem));
        }
        Ok(stops)
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let wrong = || ApiError::field("logit_bias", "must map tokens to numbers from -100 to 100");
        let Some(value) = self.get("logit_bias") else { return Ok(Vec::new()) };
        let map = value.as_object().ok_or_else(wrong)?;
        if map.len() > MAX_BIAS {
            return Err(ApiError::field("logit_bias", format!("at most {MAX_BIAS} tokens")));
        }
        let bias = |(token, bias): (&String, &Value)| {
            let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
            // -100 forbids a token, as OpenAI documents it.
            let bias = if bias == -100.0 { f32::NEG_INFINITY } else { bias as f32 };
            Some((token.parse().ok()?, bias))
        };
        map.iter().map(bias).collect::<Option<Vec<_>>>().ok_or_else(wrong)
    }

    /// Refuses what can't be enforced, rather than to write without it.
    fn check_response_format(&self) -> Result<(), ApiError> {
        let kind = self.get("response_format").map(|f| f.get("type").and_then(Value::as_str));
        if kind.is_some_and(|kind| kind != Some("text")) {
            let problem = "only {\"type\": \"text\"} is supported";
            return Err(ApiError::field("response_format", problem));
        }
        for name in ["grammar", "json_schema", "functions", "function_call", "audio", "modalities"]
        {
            let is_text = self.get(name).is_some_and(|v| *v == serde_json::json!(["text"]));
            if self.get(name).is_some() && !is_text {
                return Err(ApiError::field(name, "is not supported"));
            }
        }
        Ok(())
    }
}
