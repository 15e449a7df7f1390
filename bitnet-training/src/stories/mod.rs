//! A grammar of short stories: a hero, a friend, a problem, an attempt, help, and a happy end.
//!
//! One seed determines the story. Hero, friend, thing and place are chosen once; each sentence is one of several
//! templates.
mod cast;
mod plots;
mod template;

use cast::{ANIMALS, BOYS, COLOURS, GIRLS, PLACES, SIZES, TOYS, TRAITS, WEATHER};
use template::Teller;

use crate::rng::Rng;

/// Returns the story of a seed: 60 to 160 words, identical on every machine.
#[must_use]
pub fn story(seed: u64) -> String {
    let mut t = Teller::new(Rng::new(seed));
    cast_characters(&mut t);
    opening(&mut t);
    let plot = t.rng().below(plots::PLOTS.len());
    plots::PLOTS[plot](&mut t);
    t.finish()
}

/// Chooses the hero (`hero`, `she`, `her`, `hers` = possessive), the friend (`friend`,
/// `fhe`, `fhim`, `fhis`), the thing and the place.
fn cast_characters(t: &mut Teller) {
    let girl = t.rng().chance(0.5);
    let (names, pronouns) =
        if girl { (&GIRLS, ["she", "her", "her"]) } else { (&BOYS, ["he", "him", "his"]) };
    t.choose("hero", names);
    for (key, word) in ["she", "her", "hers"].into_iter().zip(pronouns) {
        t.set(key, word);
    }
    t.set("herself", if girl { "herself" } else { "himself" });
    let (kind, home) = ANIMALS[t.rng().below(ANIMALS.len())];
    if t.rng().chance(0.5) {
        t.set("kind", if girl { "girl" } else { "boy" });
        t.choose("home", &["house", "cottage", "cabin", "stone house"]);
    } else {
        t.set("kind", kind);
        t.set("home", home);
    }
    let friend_girl = t.rng().chance(0.5);
    let (names, pronouns) =
        if friend_girl { (&GIRLS, ["she", "her", "her"]) } else { (&BOYS, ["he", "him", "his"]) };
    t.choose("friend", names);
    while t.word("friend") == t.word("hero") {
        t.choose("friend", names);
    }
    for (key, word) in ["fhe", "fhim", "fhis"].into_iter().zip(pronouns) {
        t.set(key, word);
    }
    let mut friend = ANIMALS[t.rng().below(ANIMALS.len())].0;
    while friend == t.word("kind") {
        friend = ANIMALS[t.rng().below(ANIMALS.len())].0;
    }
    t.set("animal", friend);
    t.choose("size", &SIZES);
    t.choose("trait", &TRAITS);
    t.choose("place", &PLACES);
    t.choose("colour", &COLOURS);
    t.choose("toy", &TOYS);
    t.choose("weather", &WEATHER);
}

/// Introduces the hero.
fn opening(t: &mut Teller) {
    let start = if t.rng().chance(0.8) {
        "Once upon a time"
    } else {
        t.rng().pick(&["Long ago", "One summer", "Far away"])
    };
    t.set("start", start);
    t.say(&[
        "{start}, there was a {size} {kind} named {hero}. {She} lived in a {home} near the {place}.",
        "{start}, a {size} {kind} named {hero} lived near the {place}.",
        "{start}, there was a {trait} {kind}. {Hers} name was {hero}, and {she} lived in a {home} near the {place}.",
        "{start}, in a {home} near the {place}, there lived a {trait} {kind} named {hero}.",
        "{start}, there lived a {size} {kind} named {hero}. {She} was very {trait}.",
    ]);
    let known = t.rng().chance(0.6);
    if known {
        t.say(&[
            "{Hers} best friend was {friend}, a {animal}.",
            "{She} had a good friend, a {animal} named {friend}.",
            "Every day {she} played with a {animal} named {friend}.",
        ]);
    }
    // The first mention of the friend in the plot introduces a friend who is still unknown.
    let (friend, animal) = (t.word("friend"), t.word("animal"));
    let mention = if known { friend.to_owned() } else { format!("the {animal} {friend}") };
    t.set("afriend", mention);
}

#[cfg(test)]
mod tests;
