//! Chat commands: lines that begin with a slash.

use clap::ValueEnum;

use crate::args::ReasoningView;

/// The text of `/help`.
pub(crate) const HELP: &str = "\
/system [TEXT]  show, or set, the system prompt (the conversation starts again)
/reset          start again
/undo           take the last turn back
/retry          answer the last question again, with another seed unless it is fixed
/save FILE      keep the conversation in a file (JSON)
/load FILE      go on with a conversation from a file
/tools [FILE]   list the tools, or load others (a JSON file; nothing is executed)
/result FILE    take the result of the pending call from a file; any other line is the result itself
/reasoning [HOW]
                show the reasoning of the last answer, or set what is shown: show, fold, hide
/think, /no-think
                switch the reasoning of the model on or off, where its template has a switch
/stats          measurements of the last answer
/seed [N]       fix the seed; without N another one for each answer
/temp X         temperature; 0 always takes the likeliest token
/quit           leave (also Ctrl-D)
Ctrl-C stops an answer. A line that begins with // is sent with one slash.";

/// A command.
#[derive(Debug, PartialEq)]
pub(crate) enum Command<'a> {
    Help,
    System(&'a str),
    Reset,
    Undo,
    Retry,
    Save(&'a str),
    Load(&'a str),
    Tools(Option<&'a str>),
    ToolResult(&'a str),
    Reasoning(Option<ReasoningView>),
    Think(bool),
    Stats,
    Seed(Option<u64>),
    Temp(f32),
    Quit,
}

/// Parses a line that begins with a slash; the error is a usage message.
pub(crate) fn parse(line: &str) -> Option<Result<Command<'_>, String>> {
    if !line.starts_with('/') || line.starts_with("//") {
        return None;
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let file = || if rest.is_empty() { Err(format!("{name} needs a file name")) } else { Ok(rest) };
    Some(match name {
        "/help" | "/?" => Ok(Command::Help),
        "/system" => Ok(Command::System(rest)),
        "/reset" | "/clear" => Ok(Command::Reset),
        "/undo" => Ok(Command::Undo),
        "/retry" => Ok(Command::Retry),
        "/save" => file().map(Command::Save),
        "/load" => file().map(Command::Load),
        "/tools" => Ok(Command::Tools((!rest.is_empty()).then_some(rest))),
        "/result" => file().map(Command::ToolResult),
        "/reasoning" if rest.is_empty() => Ok(Command::Reasoning(None)),
        "/reasoning" => match ReasoningView::from_str(rest, true) {
            Ok(view) => Ok(Command::Reasoning(Some(view))),
            Err(_) => Err("/reasoning takes show, fold or hide".into()),
        },
        "/think" => Ok(Command::Think(true)),
        "/no-think" | "/no_think" => Ok(Command::Think(false)),
        "/stats" => Ok(Command::Stats),
        "/seed" if rest.is_empty() => Ok(Command::Seed(None)),
        "/seed" => rest
            .parse()
            .map(|n| Command::Seed(Some(n)))
            .map_err(|_| "/seed needs an integer".into()),
        "/temp" => match rest.parse::<f32>() {
            Ok(t) if t >= 0.0 && t.is_finite() => Ok(Command::Temp(t)),
            _ => Err("/temp needs a number of at least 0".into()),
        },
        "/quit" | "/exit" | "/bye" => Ok(Command::Quit),
        _ => Err(format!("{name} is not a command; /help lists them")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("//path"), None);
        assert_eq!(parse("/system  Be brief. "), Some(Ok(Command::System("Be brief."))));
        assert_eq!(parse("/seed 7"), Some(Ok(Command::Seed(Some(7)))));
        assert_eq!(parse("/seed"), Some(Ok(Command::Seed(None))));
        assert_eq!(parse("/temp 0.5"), Some(Ok(Command::Temp(0.5))));
        assert_eq!(parse("/save my file.json"), Some(Ok(Command::Save("my file.json"))));
        assert_eq!(parse("/tools"), Some(Ok(Command::Tools(None))));
        assert_eq!(parse("/tools a b.json"), Some(Ok(Command::Tools(Some("a b.json")))));
        assert_eq!(
            parse("/reasoning show"),
            Some(Ok(Command::Reasoning(Some(ReasoningView::Show))))
        );
        for wrong in [
            "/reasoning no",
            "/result",
            "/save",
            "/temp",
            "/temp -1",
            "/temp NaN",
            "/seed x",
            "/nonsense",
            "/",
        ] {
            assert!(matches!(parse(wrong), Some(Err(_))), "{wrong}");
        }
    }
}
