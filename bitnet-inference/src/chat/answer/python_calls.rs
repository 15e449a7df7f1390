//! Calls as Python writes them: `name(key='value', other=[1, None])`, one after the other (MiniCPM).

use serde_json::Value;

use super::calls::quoted;
use crate::chat::FunctionCall;

/// Deepest nesting of lists and dictionaries.
const MAX_DEPTH: usize = 64;

/// Reads calls with named arguments that are literals, in a fence of three backticks or not, in a list or not.
///
/// # Errors
/// What is wrong with the text, for a message.
pub(super) fn from_python(text: &str) -> Result<Vec<FunctionCall>, String> {
    let text = text.trim();
    let fenced = text.strip_prefix("```").and_then(|text| text.strip_suffix("```"));
    let text = fenced.map_or(text, |text| text.strip_prefix("python").unwrap_or(text)).trim();
    let listed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let mut reader = Reader { rest: listed.unwrap_or(text) };
    let mut calls = Vec::new();
    loop {
        reader.rest =
            reader.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == ';');
        if reader.rest.is_empty() {
            break;
        }
        calls.push(reader.call()?);
    }
    if calls.is_empty() { Err("no call".into()) } else { Ok(calls) }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn call(&mut self) -> Result<FunctionCall, String> {
        let name = self.name('.')?.to_owned();
        if !self.take("(") {
            return Err(format!("{name} is not called"));
        }
        let mut arguments = String::from("{");
        let mut keys = Vec::new();
        while !self.take(")") {
            if !keys.is_empty() {
                arguments.push_str(", ");
            }
            let key = self.name('_')?;
            if !self.take("=") || keys.contains(&key) {
                return Err(format!("the argument {key} has no value or is given twice"));
            }
            keys.push(key);
            arguments.push_str(&quoted(key));
            arguments.push_str(": ");
            self.value(&mut arguments, 0)?;
            self.separator(")")?;
        }
        arguments.push('}');
        Ok(FunctionCall { name, arguments })
    }

    /// Takes a text after white space.
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Takes a comma, or sees the end.
    fn separator(&mut self, end: &str) -> Result<(), String> {
        if self.take(",") || self.rest.trim_start().starts_with(end) {
            return Ok(());
        }
        Err(format!("a comma or {end} is missing"))
    }

    /// Takes letters, digits, underscores and another character.
    fn name(&mut self, more: char) -> Result<&'t str, String> {
        self.rest = self.rest.trim_start();
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == more;
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if name.is_empty() { Err("a name is missing".into()) } else { Ok(name) }
    }

    /// Takes a literal and appends it as JSON.
    fn value(&mut self, out: &mut String, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("lists are nested more than {MAX_DEPTH} deep"));
        }
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            Some('"' | '\'') => {
                let text = self.string()?;
                out.push_str(&quoted(&text));
                Ok(())
            }
            Some('[') => self.items("[", "]", out, depth),
            Some('(') => self.items("(", ")", out, depth),
            Some('{') => self.entries(out, depth),
            _ => self.word(out),
        }
    }

    fn items(
        &mut self,
        open: &str,
        end: &str,
        out: &mut String,
        depth: usize,
    ) -> Result<(), String> {
        self.take(open);
        out.push('[');
        let mut count = 0;
        while !self.take(end) {
            out.push_str(if count > 0 { ", " } else { "" });
            count += 1;
            self.value(out, depth + 1)?;
            self.separator(end)?;
        }
        out.push(']');
        Ok(())
    }

    fn entries(&mut self, out: &mut String, depth: usize) -> Result<(), String> {
        self.take("{");
        out.push('{');
        let mut count = 0;
        while !self.take("}") {
            out.push_str(if count > 0 { ", " } else { "" });
            count += 1;
            self.rest = self.rest.trim_start();
            let key = self.string()?;
            out.push_str(&quoted(&key));
            if !self.take(":") {
                return Err("a colon is missing in a dictionary".into());
            }
            out.push_str(": ");
            self.value(out, depth + 1)?;
            self.separator("}")?;
        }
        out.push('}');
        Ok(())
    }

    /// Takes a number, or `True`, `False`, `None`.
    fn word(&mut self, out: &mut String) -> Result<(), String> {
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ')' | ']' | '}');
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        out.push_str(match word {
            "True" | "true" => "true",
            "False" | "false" => "false",
            "None" | "null" => "null",
            number if matches!(serde_json::from_str(number), Ok(Value::Number(_))) => number,
            other => return Err(format!("{other:?} is not a literal")),
        });
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let quote = quote.ok_or("a text is missing")?;
        let triple = String::from(quote).repeat(3);
        let (end, mut rest) = match self.rest.strip_prefix(&triple) {
            Some(rest) => (triple, rest),
            None => (quote.to_string(), self.rest.get(1..).unwrap_or_default()),
        };
        let mut text = String::new();
        loop {
            if let Some(after) = rest.strip_prefix(&end) {
                self.rest = after;
                return Ok(text);
            }
            let mut letters = rest.chars();
            match letters.next() {
                None => return Err("a text does not end".into()),
                Some('\\') => text.push_str(&escaped(&mut letters)?),
                Some(letter) => text.push(letter),
            }
            rest = letters.as_str();
        }
    }
}

/// The character after a backslash.
fn escaped(letters: &mut std::str::Chars<'_>) -> Result<String, String> {
    let letter = letters.next().ok_or("a text does not end")?;
    let digits = match letter {
        'n' => return Ok("\n".into()),
        't' => return Ok("\t".into()),
        'r' => return Ok("\r".into()),
        '\n' => return Ok(String::new()),
        '\\' | '\'' | '"' => return Ok(letter.into()),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => return Ok(format!("\\{other}")),
    };
    let hex: String = letters.by_ref().take(digits).collect();
    let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits);
    let found =
        code.and_then(char::from_u32).ok_or_else(|| format!("\\{letter}{hex} is no character"))?;
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let calls = from_python(text).unwrap();
        calls.iter().map(|call| format!("{}{}", call.name, call.arguments)).collect()
    }

    #[test]
    fn literals_become_json() {
        let text = "```python\nf(a='x\\n\"é', n=-5, x=1.5e3, b=True, none=None)\n\ng()\n```";
        let first = r#"f{"a": "x\n\"é", "n": -5, "x": 1.5e3, "b": true, "none": null}"#;
        assert_eq!(shown(text), [first, "g{}"]);
        assert_eq!(
            shown(
                "[a.f(l=[1, (2, 'x'), {'k': {\"m\": []}}], s=\"\"\"a\"b\nc\"\"\"), g(q='\\u00e9\\x41',)]"
            ),
            [r#"a.f{"l": [1, [2, "x"], {"k": {"m": []}}], "s": "a\"b\nc"}"#, r#"g{"q": "éA"}"#]
        );
        assert_eq!(shown("f(id=12345678901234567890123)"), ["f{\"id\": 12345678901234567890123}"]);
    }

    #[test]
    fn what_is_no_literal_is_refused() {
        let deep = format!("f(a={}{})", "[".repeat(100), "]".repeat(100));
        for wrong in [
            "",
            "f",
            "f(",
            "f(1)",
            "f(a=)",
            "f(a=b)",
            "f(a=g())",
            "f(a=1 b=2)",
            "f(a=1, a=2)",
            "f(a='x)",
            "f(a={1: 2})",
            "f(a={'k' 2})",
            "f(a='\\xZZ')",
            "f(a='\\ud800')",
            "f(a=01)",
            "x = 1",
            &deep,
        ] {
            assert!(from_python(wrong).is_err(), "{wrong}");
        }
    }
}
