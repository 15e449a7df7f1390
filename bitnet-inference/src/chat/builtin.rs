//! Templates known by name, written from the described formats.

/// A chat format that needs no template from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Builtin {
    /// BitNet b1.58 2B-4T: `User: …<|eot_id|>Assistant: `.
    BitNet,
    /// Llama 3: headers between `<|start_header_id|>` and `<|end_header_id|>`.
    Llama3,
    /// ChatML: `<|im_start|>user`, `<|im_end|>`.
    ChatMl,
    /// Falcon 3: `<|user|>`, `<|assistant|>` on lines of their own.
    Falcon3,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::BitNet, Self::Llama3, Self::ChatMl, Self::Falcon3];

    /// The name by which a user chooses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BitNet => "bitnet",
            Self::Llama3 => "llama3",
            Self::ChatMl => "chatml",
            Self::Falcon3 => "falcon3",
        }
    }

    /// The names of all of them, for a message.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }

    /// The template's Jinja source.
    pub fn source(self) -> &'static str {
        match self {
            Self::BitNet => BITNET,
            Self::Llama3 => LLAMA3,
            Self::ChatMl => CHATML,
            Self::Falcon3 => FALCON3,
        }
    }
}

const BITNET: &str = "\
{%- for message in messages -%}
{%- if loop.first -%}{{ bos_token }}{%- endif -%}
{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant: ' }}{%- endif -%}
";

const LLAMA3: &str = "\
{%- for message in messages -%}
{%- if loop.first -%}{{ bos_token }}{%- endif -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}
";

const CHATML: &str = "\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
";

const FALCON3: &str = "\
{%- for message in messages -%}
{%- if message['role'] in ['system', 'user'] -%}
{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ '<|assistant|>\n' + message['content'] + ('\n' if not loop.last else eos_token | default('')) }}
{%- endif -%}
{%- if loop.last and add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}
{%- endfor -%}
";

/// Whether a template is the one embedded in the 2B-4T GGUF files, which ends turns with the end-of-text token and
/// makes the model talk to itself; use [`Builtin::BitNet`] in its place.
pub fn is_broken_bitnet_template(source: &str) -> bool {
    source.contains("BITNETAssistant")
}
