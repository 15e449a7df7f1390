//! Tools and reasoning in `bitnet chat` and `bitnet run`, with a model that always writes the same.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::program::{json, ok, output, refused_in_a_line, stderr, stdout, with_input};

/// Length of an embedding: one place for each token, and some.
const HIDDEN: usize = 384;
/// Length of a key, and of the inner vectors.
const HEAD: usize = 128;
/// What the model writes, token after token. After a token that is not in a list it ends.
const CHAINS: [&[&str]; 2] = [
    &[
        "<|assistant|>",
        "<think>",
        "\nThe time is",
        " asked for.",
        "\n</think>\n\n",
        "I look.",
        "\n<tool_call>\n",
        "{\"name\": \"now\", \"arguments\": {\"zone\": \"UTC\"}}",
        "\n</tool_call>",
    ],
    &["<|answer|>", "It is noon."],
];
const TEMPLATE: &str = "\
{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}
{% for c in m.tool_calls or [] %}{{ c.function | tojson }}</think>{% endfor %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|answer|>' if messages[-1].role == 'tool' or enable_thinking is false else '<|assistant|>' }}{% endif %}";
const TOOLS: &str = r#"[{"type": "function", "function": {"name": "now", "description": "Tells the time",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}]"#;

/// A folder with the model, whose next token depends on the last one alone, and a file of tools.
struct Files {
    folder: TempDir,
    model: String,
    tools: String,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path());
        let tools = folder.path().join("functions.json");
        std::fs::write(&tools, TOOLS).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        Self { model: text(folder.path()), tools: text(&tools), folder }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The arguments of a command with this model.
    fn args<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec![command, "-m", &self.model, "--temp", "0", "-n", "40", "--no-cache"];
        args.extend(more);
        args
    }
}

fn write_model(folder: &Path) {
    // All bytes, then the added tokens.
    let letters: Vec<char> =
        ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='Ń').collect();
    assert_eq!(letters.len(), 256);
    let vocab: Map<String, Value> =
        letters.iter().zip(0..).map(|(letter, id)| (letter.to_string(), json!(id))).collect();
    let texts: Vec<&str> = std::iter::once("<|end|>").chain(CHAINS.concat()).collect();
    let added = texts.iter().zip(256..).map(|(text, id)| {
        json!({"id": id, "content": text, "special": text.starts_with("<|"), "normalized": false})
    });
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(), "normalizer": null, "pre_tokenizer": byte_level,
        "post_processor": null, "decoder": byte_level, "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let vocab_size = 256 + texts.len();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": HEAD, "num_attention_heads": HIDDEN / HEAD, "num_key_value_heads": 1, "num_hidden_layers": 1,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "vocab_size": vocab_size, "eos_token_id": 256, "bos_token_id": null, "attention_bias": false,
    });
    let settings = json!({"eos_token": "<|end|>", "chat_template": TEMPLATE});
    let write = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", &tokenizer);
    write("config.json", &config);
    write("tokenizer_config.json", &settings);

    let next = |id: usize| {
        let chain = CHAINS.iter().find_map(|chain| {
            let at = chain.iter().position(|text| id >= 256 && *text == texts[id - 256])?;
            chain.get(at + 1)
        });
        chain.map_or(256, |text| 256 + texts.iter().position(|t| t == text).unwrap())
    };
    let unit = |at: usize| (0..HIDDEN).map(move |i| if i == at { 1.0 } else { 0.0 });
    let embedding: Vec<f32> = (0..vocab_size).flat_map(unit).collect();
    let mut head = vec![0f32; vocab_size * HIDDEN];
    (0..vocab_size).for_each(|id| head[next(id) * HIDDEN + id] = 1.0);
    // Ternary weights that change next to nothing.
    let small = |count: usize| (0..count).map(|i| (i % 3) as f32 * 1e-4 - 1e-4).collect();
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = vec![
        ("model.embed_tokens.weight".into(), vec![vocab_size, HIDDEN], embedding),
        ("lm_head.weight".into(), vec![vocab_size, HIDDEN], head),
        ("model.norm.weight".into(), vec![HIDDEN], vec![1.0; HIDDEN]),
        (layer("input_layernorm"), vec![HIDDEN], vec![1.0; HIDDEN]),
        (layer("post_attention_layernorm"), vec![HIDDEN], vec![1.0; HIDDEN]),
        (layer("self_attn.q_proj"), vec![HIDDEN, HIDDEN], small(HIDDEN * HIDDEN)),
        (layer("self_attn.k_proj"), vec![HEAD, HIDDEN], small(HEAD * HIDDEN)),
        (layer("self_attn.v_proj"), vec![HEAD, HIDDEN], small(HEAD * HIDDEN)),
        (layer("self_attn.o_proj"), vec![HIDDEN, HIDDEN], small(HIDDEN * HIDDEN)),
        (layer("mlp.gate_proj"), vec![HEAD, HIDDEN], small(HEAD * HIDDEN)),
        (layer("mlp.up_proj"), vec![HEAD, HIDDEN], small(HEAD * HIDDEN)),
        (layer("mlp.down_proj"), vec![HIDDEN, HEAD], small(HEAD * HIDDEN)),
    ];
    let mut header = Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
}

const CALL: &str = r#"call now({"zone": "UTC"})"#;

#[test]
fn run_with_tools_prints_the_answer_and_its_calls() {
    let files = Files::new();
    let printed = ok(&files.args("run", &["What time?", "--tools", &files.tools]));
    assert_eq!(stdout(&printed), format!("I look.\n{CALL}\n"));
    let printed =
        ok(&files.args("run", &["What time?", "--tools", &files.tools, "--reasoning", "show"]));
    assert_eq!(stdout(&printed), format!("The time is asked for.\n\nI look.\n{CALL}\n"));
    let printed = ok(&files.args("run", &["What time?", "--reasoning", "fold"]));
    assert!(stdout(&printed).starts_with("I look.\n<tool_call>\n{"), "{}", stdout(&printed));
    assert!(stderr(&printed).contains("[thought for 3 tokens]"), "{}", stderr(&printed));
    let printed = ok(&files.args("run", &["What time?", "--no-think"]));
    assert_eq!(stdout(&printed), "It is noon.\n");

    let value = json(&files.args("run", &["What time?", "--tools", &files.tools, "--json"]));
    assert_eq!(value["content"], "I look.");
    assert_eq!(value["reasoning_content"], "The time is asked for.");
    let function = json!({"name": "now", "arguments": "{\"zone\": \"UTC\"}"});
    let calls = json!([{"id": "call_0", "type": "function", "function": function}]);
    assert_eq!(value["tool_calls"], calls);
    assert!(value["text"].as_str().unwrap().starts_with("<think>\nThe time"));
}

#[test]
fn chat_takes_the_result_of_a_call_and_goes_on() {
    let files = Files::new();
    let talk = files.folder.path().join("talk.json");
    let result = files.file("result.txt", "12:00\n");
    let script = format!(
        "/tools {}\n/tools\nWhat time?\n/reasoning\n12:00\nAnd now?\n/result {}\n/save {2}\n/load {2}\n",
        files.tools,
        result.display(),
        talk.display(),
    );
    let output = with_input(&files.args("chat", &[]), script.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    let turn = format!("I look.\n{CALL}\nIt is noon.\n");
    assert_eq!(stdout(&output), turn.repeat(2));
    let notes = stderr(&output);
    for words in
        ["1 tool loaded", "now  Tells the time", "The time is asked for.", "2 turns loaded"]
    {
        assert!(notes.contains(words), "{words:?} is not in: {notes}");
    }
    let saved: Value = serde_json::from_slice(&std::fs::read(&talk).unwrap()).unwrap();
    let messages = saved["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant"].repeat(2));
    assert_eq!(messages[1]["reasoning_content"], "The time is asked for.");
    assert_eq!(messages[5]["tool_calls"][0]["id"], "call_1");
    assert_eq!(
        messages[6],
        json!({"role": "tool", "content": "12:00", "tool_call_id": "call_1", "name": "now"})
    );
}

#[test]
fn chat_with_json_has_the_parts_of_an_answer() {
    let files = Files::new();
    let args = files.args("chat", &["--json", "--tools", &files.tools]);
    let output = with_input(&args, b"What time?\n12:00\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<Value> =
        stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["tool_calls"][0]["function"]["name"], "now");
    assert_eq!(
        (&lines[1]["content"], &lines[1]["tool_calls"]),
        (&json!("It is noon."), &json!([]))
    );
    assert_eq!(lines[1]["reasoning_content"], Value::Null);
}

#[test]
fn tools_that_can_not_be_used_are_refused_by_name() {
    let files = Files::new();
    let broken = files.file("broken.json", "[{\"name\": \"a b\"}]");
    let broken = broken.to_str().unwrap();
    for command in ["run", "chat"] {
        let text: &[&str] = if command == "run" { &["hi"] } else { &[] };
        let args = |more: &[&'static str]| {
            let mut args: Vec<String> =
                files.args(command, text).iter().map(|a| (*a).into()).collect();
            args.extend(more.iter().map(|a| (*a).to_owned()));
            args
        };
        let refused = |args: &[String], words: &[&str]| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            refused_in_a_line(&args, words);
        };
        let mut with_broken = args(&["--tools"]);
        with_broken.push(broken.into());
        refused(&with_broken, &["broken.json", "[0].function.name"]);
        refused(&args(&["--tools", "/nonexistent/tools.json"]), &["/nonexistent/tools.json"]);
        let mut without_tools = args(&["--chat-template", "chatml", "--tools"]);
        without_tools.push(files.tools.clone());
        refused(&without_tools, &["chatml", "tools"]);
        refused(
            &args(&["--chat-template", "chatml", "--no-think"]),
            &["chatml", "enable_thinking"],
        );
        assert_eq!(output(&[command, "--think", "--no-think"]).status.code(), Some(2));
    }
    refused_in_a_line(&["chat", "--tools", &files.tools], &["chat template"]);
    let nothing_waits = with_input(&files.args("chat", &[]), b"/result x\n");
    assert_eq!(nothing_waits.status.code(), Some(2));
    assert!(stderr(&nothing_waits).contains("no call waits"), "{}", stderr(&nothing_waits));
}
