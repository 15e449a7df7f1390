//! GGUF and safetensors containers, memory-mapped and checked.

