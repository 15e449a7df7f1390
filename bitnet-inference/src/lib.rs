//! Tokenizers, chat templates, models, samplers and the engine that writes text.
#![forbid(unsafe_code)]
