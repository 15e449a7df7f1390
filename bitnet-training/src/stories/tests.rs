//! Properties of every story.
use std::collections::HashSet;

use super::story;

#[test]
fn stories_have_the_documented_length_and_no_placeholders() {
    let (mut least, mut most) = (usize::MAX, 0);
    for seed in 0..3000 {
        let text = story(seed);
        let words = text.split_whitespace().count();
        (least, most) = (least.min(words), most.max(words));
        assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
        assert!(text.ends_with(['.', '!', '"']), "{text}");
        assert_eq!(text.matches('"').count() % 2, 0, "{text}");
    }
    assert!(least >= 60 && most <= 160, "{least}..={most} words");
}

#[test]
fn a_seed_is_a_story_and_seeds_differ() {
    assert_eq!(story(7), story(7));
    let different: HashSet<String> = (0..2000).map(story).collect();
    assert_eq!(different.len(), 2000);
}

#[test]
fn most_stories_begin_once_upon_a_time() {
    let count = (0..1000).filter(|&seed| story(seed).starts_with("Once upon a time")).count();
    assert!((700..900).contains(&count), "{count}");
}
