//! The view, drawn into memory.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyEvent;

use super::*;

fn server() -> Server {
    Server {
        url: "http://127.0.0.1:8080".into(),
        model: Some("stories".into()),
        context: Some(256),
        parallel: Some(32),
    }
}

fn history() -> History {
    let mut history = History::default();
    for second in 0..20 {
        let text = sample::tests::text(1000 + 30 * second, [10 * second, 2 * second, second]);
        history.push(Sample::parse(&text, Duration::from_secs(second.into())));
    }
    history
}

/// Draws a view and returns its rows.
fn drawn(history: &History, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            let lines = view::lines(&server(), history, width.into(), height.into());
            assert!(lines.len() <= usize::from(height));
            assert!(lines.iter().all(|line| line.width() <= usize::from(width)));
            frame.render_widget(Paragraph::new(lines), frame.area());
        })
        .unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned()).collect()
}

#[test]
fn a_terminal_of_the_usual_size_shows_everything() {
    let rows = drawn(&history(), 80, 24);
    let text = rows.join("\n");
    for part in [
        "bitnet top  http://127.0.0.1:8080  stories  context 256",
        "Tokens    written 30.0/s  read 0.0/s",
        "Texts     active 9 of 32  waiting 3  412 prompt tokens wait",
        "Memory    pages 96 of 128  96.0 MiB of 128.0 MiB  40 in use  12 earlier texts",
        "Requests  100 finished  1 failed  7 cancelled  4 refused",
        "Steps     13.0/s  half ≤ 10 ms, 99 % slower",
        "  ≤ 10 ms  76.9 % ███",
        "   slower   7.7 % ████",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // 40 of 128 pages are in use, 96 taken: of 70 columns.
    let bar = rows.iter().find(|row| row.contains('▒')).unwrap();
    let of = |c: char| bar.chars().filter(|&found| found == c).count();
    assert_eq!((of('█'), of('▒'), of('░')), (22, 31, 17));
}

#[test]
fn a_small_terminal_shows_what_fits() {
    let rows = drawn(&history(), 40, 12);
    let text = rows.join("\n");
    for part in [
        "Tokens    written 30.0/s",
        "Texts     active 9 of 32",
        "Memory    pages 96 of 128",
        "Requests  100 finished",
        "Steps     13.0/s",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    for (width, height) in [(1, 1), (3, 2), (12, 5), (300, 60), (80, 0)] {
        if height > 0 {
            drawn(&history(), width, height);
        }
        view::lines(&server(), &history(), width.into(), height.into());
    }
}

#[test]
fn a_server_that_went_away_or_began_anew_is_no_trouble() {
    let mut history = history();
    history.problem = Some("http://127.0.0.1:8080/metrics: refused".into());
    assert!(drawn(&history, 80, 24)[1].starts_with("no answer: http://127.0.0.1:8080"));
    history.push(Sample::parse(&sample::tests::text(0, [0, 0, 0]), Duration::from_secs(30)));
    let text = drawn(&history, 80, 24).join("\n");
    assert!(text.contains("written 0.0/s") && !text.contains("no answer"), "{text}");
    assert!(view::plain(&history).contains("9 active, 3 waiting; 96 of 128 pages; steps none"));
    history.push(Sample::default());
    assert!(drawn(&history, 80, 24).join("\n").contains("waiting ?"));
}

#[test]
fn q_and_control_c_end_the_view() {
    let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
    assert!(is_end(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
    assert!(is_end(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!is_end(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
    assert!(!is_end(&Event::Resize(80, 24)));
}
