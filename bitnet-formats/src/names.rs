//! Tensor names of Hugging Face checkpoints and of GGUF files.
