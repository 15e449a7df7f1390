//! The plots: each goes from a problem over an attempt and help to a happy end.
mod growing;
mod meetings;
mod things;

use super::{
    cast::{GLAD, SAD},
    template::Teller,
};

/// Every plot; the story's cast is already chosen. The order is part of what a seed means.
pub(super) const PLOTS: [fn(&mut Teller); 10] = [
    things::lost,
    things::stuck,
    things::broken,
    meetings::afraid,
    meetings::hungry,
    meetings::rain,
    growing::skill,
    meetings::stray,
    growing::garden,
    things::birthday,
];

/// When it happens (`day`, and `lowday` for the middle of a sentence), and what.
fn day(t: &mut Teller, what: &[&str]) {
    t.choose("day", &["One {weather}", "One day", "One {weather}", "One morning"]);
    let day = t.word("day").replace("{weather}", t.word("weather"));
    t.set("lowday", day.replacen('O', "o", 1));
    t.set("day", day);
    t.say(what);
}

/// The hero is sad.
fn feel_sad(t: &mut Teller) {
    t.choose("sad", &SAD);
    t.say(&[
        "{She} felt {sad}.",
        "{Hero} was {sad}.",
        "This made {hero} {sad}.",
        "{Hero} sat down and began to cry.",
    ]);
}

/// The friend comes and asks.
fn ask(t: &mut Teller) {
    t.say(&[
        "\"What is wrong?\" asked {afriend}.",
        "Then {afriend} came by. \"Why are you so sad, {hero}?\" {fhe} asked.",
        "Just then, {afriend} walked by and asked, \"What happened?\"",
        "{Afriend} saw {her} and asked, \"Can I help you?\"",
    ]);
}

/// The hero thanks the friend.
fn thanks(t: &mut Teller) {
    t.say(&[
        "\"Thank you, {friend}!\" said {hero}.",
        "{Hero} hugged {friend} and said, \"Thank you!\"",
        "\"You are a true friend,\" {hero} told {friend}.",
        "{Hero} smiled. \"Thank you for your help, {friend},\" {she} said.",
    ]);
}

/// Joy and a lesson, or a lesson and a last look.
fn ending(t: &mut Teller, lessons: &[&str]) {
    t.choose("glad", &GLAD);
    if t.rng().chance(0.5) {
        t.say(&[
            "They were both {glad}.",
            "{Hero} was {glad}.",
            "{Hero} and {friend} laughed and played until the sun went down.",
            "That evening, {hero} and {friend} went home and were {glad}.",
        ]);
        t.maybe(0.7, lessons);
    } else {
        t.say(lessons);
        t.say(&[
            "And they all lived happily ever after.",
            "From that day on, {hero} and {friend} were the best of friends.",
            "That night, {hero} fell asleep with a smile.",
            "{Hero} and {friend} walked home together.",
        ]);
    }
}

/// The thing that the hero loves.
fn toy(t: &mut Teller) {
    t.say(&[
        "{Hero} had a {colour} {toy} that {she} loved very much.",
        "{Hero}'s favourite thing was a {colour} {toy}.",
        "{Hero}'s grandmother had given {her} a {colour} {toy}.",
        "More than anything, {hero} loved {hers} {colour} {toy}.",
    ]);
}
