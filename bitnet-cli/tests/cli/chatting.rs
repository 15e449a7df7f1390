//! `bitnet chat`: lines, commands, files and the limit of the context.

use std::io::{BufRead, BufReader, Write};

use serde_json::Value;

use crate::program::{spawn, stderr, stdout, with_input};

#[test]
fn chat_answers_lines_and_obeys_commands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let script = format!(
        "/help\n/seed 5\n/temp 0\nOnce upon a time\n/stats\nThe end came\n/undo\n/save {}\n/reset\n/load {}\n/retry\n/quit\n",
        file.display(),
        file.display()
    );
    let output = with_input(&["chat", "-n", "8"], script.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stdout(&output).trim().is_empty());
    let notes = stderr(&output);
    for word in ["/system", "tokens/s", "taken back: The end came", "1 turn saved", "1 turn loaded"]
    {
        assert!(notes.contains(word), "{word:?} is not in: {notes}");
    }
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "Once upon a time");
    assert_eq!(saved["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn chat_with_json_gives_a_line_for_each_answer() {
    let output =
        with_input(&["chat", "-n", "4", "--json", "--seed", "1"], b"Once upon a time\nThen\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let answers: Vec<Value> =
        stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert!(answers[1]["prompt_tokens"].as_u64() > answers[0]["prompt_tokens"].as_u64());
}

#[test]
fn chats_beyond_the_context_drop_the_oldest_turns() {
    let script = "Once upon a time there was a little dog.\n".repeat(8);
    let output = with_input(&["chat", "-n", "4", "--ctx", "64", "--ignore-eos"], script.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("dropped the oldest"), "{}", stderr(&output));
}

#[test]
fn mistakes_in_a_chat_script_are_told() {
    for (script, word) in [
        ("/dance\n", "/dance"),
        ("/load /nonexistent/talk.json\n", "talk.json"),
        ("/temp x\n", "temp"),
    ] {
        let output = with_input(&["chat"], script.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{script}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{script}: {}", stderr(&output));
    }
}

#[test]
fn chat_answers_each_line_immediately() {
    let mut child = spawn(&["chat", "-n", "3", "--temp", "0", "--ignore-eos", "--json"]);
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    for line in ["Once upon a time\n", "And then\n"] {
        input.write_all(line.as_bytes()).unwrap();
        input.flush().unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["text"].is_string());
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn custom_template_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("template.jinja");
    let template = file.to_str().unwrap();
    let args = [
        "chat",
        "-n",
        "2",
        "--temp",
        "0",
        "--ignore-eos",
        "--json",
        "--system",
        "Be brief.",
        "--chat-template",
        template,
    ];
    let tokens = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = with_input(&args, b"Once upon a time\n");
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str::<Value>(stdout(&output)).unwrap()["prompt_tokens"].as_u64().unwrap()
    };
    let short = tokens("{% for m in messages %}{{ m.content }}{% endfor %}");
    let long = tokens("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    assert!(long > short, "{long} {short}");

    for (text, words) in [("", "renders no text"), ("{% for %}", "template")] {
        std::fs::write(&file, text).unwrap();
        let output = with_input(&args, b"Hi\n");
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn saving_replaces_only_saved_conversations() {
    let folder = tempfile::tempdir().unwrap();
    let (talk, temporary, notes) = (
        folder.path().join("talk.json"),
        folder.path().join("talk.tmp"),
        folder.path().join("notes.txt"),
    );
    std::fs::write(&temporary, "mine").unwrap();
    std::fs::write(&notes, "mine").unwrap();
    let script = format!("/save {0}\n/save {0}\n", talk.display());
    let output = with_input(&["chat"], script.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::read(&temporary).unwrap(), b"mine");
    let output = with_input(&["chat"], format!("/save {}\n", notes.display()).as_bytes());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("notes.txt"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&notes).unwrap(), b"mine");
}
