//! Plots about patience: learning a skill, growing a plant.
use super::{ask, day, ending, feel_sad};
use crate::stories::{
    cast::{PLANTS, SKILLS},
    template::Teller,
};

pub(super) fn skill(t: &mut Teller) {
    t.choose("skill", &SKILLS);
    t.say(&[
        "{Hero} wanted to learn to {skill}.",
        "More than anything, {hero} wished to {skill}.",
        "All the others could {skill}, but {hero} could not.",
    ]);
    day(
        t,
        &[
            "{Day}, {she} tried to {skill}, but it did not go well.",
            "{Day}, {hero} tried to {skill} all by {herself}.",
            "{Day}, {hero} tried for the first time, but it was too hard.",
        ],
    );
    t.say(&[
        "\"I will never learn it,\" {she} said.",
        "\"It is too hard for me,\" said {hero}.",
        "{She} tried again and again, but it did not work.",
    ]);
    feel_sad(t);
    ask(t);
    t.say(&[
        "\"I cannot {skill},\" said {hero}.",
        "\"I want to {skill}, but I do not know how,\" {hero} said.",
        "\"Everyone can {skill} but me,\" {hero} answered.",
    ]);
    t.say(&[
        "\"I can teach you,\" said {friend}. \"First, watch me.\"",
        "\"I could not {skill} at first either,\" said {friend}. \"Let me show you.\"",
        "{Friend} smiled. \"It takes time,\" {fhe} said. \"We will try together.\"",
    ]);
    t.say(&[
        "Every day they practised near the {place}.",
        "They practised for many days.",
        "{Hero} watched {fhim} and tried again.",
    ]);
    t.say(&[
        "At last, {hero} could {skill}!",
        "Then one day, {hero} began to {skill}, and it was easy.",
        "After a week, {hero} could {skill} very well.",
    ]);
    t.say(&[
        "\"Look at me! I can {skill}!\" {she} shouted.",
        "\"I did it!\" said {hero}.",
        "\"You did it!\" said {friend}.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that you must never give up.",
            "{Hero} learned that hard things take time.",
            "Later, {hero} taught others to {skill} too.",
        ],
    );
}

pub(super) fn garden(t: &mut Teller) {
    let (seed, plant) = PLANTS[t.rng().below(PLANTS.len())];
    t.set("seed", seed);
    t.set("plant", plant);
    day(
        t,
        &[
            "{Day}, {hero} found a {seed} seed and put it in the ground.",
            "{Day}, {hero} planted a {seed} seed behind the {home}.",
            "{Day}, an old woman gave {hero} a {seed} seed. {Hero} planted it.",
        ],
    );
    t.say(&[
        "The next morning {she} ran outside, but there was nothing.",
        "{She} waited and waited, but nothing grew.",
        "{She} looked at it every hour, but nothing happened.",
    ]);
    t.say(&[
        "\"My seed is not growing,\" {she} said.",
        "\"Maybe it is a bad seed,\" said {hero}.",
        "\"Grow, little seed!\" {she} shouted, but it did not grow.",
    ]);
    feel_sad(t);
    t.say(&[
        "{Afriend} came to look. \"Did you give it water?\" {fhe} asked.",
        "{Afriend} saw {her} and said, \"A seed needs water and time.\"",
        "\"Be patient,\" said {afriend}. \"It needs water and sun.\"",
    ]);
    t.say(&[
        "So every day, {hero} and {friend} gave water to the seed.",
        "So {hero} watered the seed each morning, and {friend} pulled out the weeds.",
        "They brought water from the well every day.",
    ]);
    t.say(&[
        "After some time, a small green leaf came out of the ground.",
        "One day, they saw a tiny green leaf.",
        "Then, after many days, something green came up.",
    ]);
    t.say(&[
        "It grew and grew, and at the end of summer there was {plant}.",
        "Day by day it grew, until it was {plant}.",
        "By the end of summer, it had become {plant}.",
    ]);
    t.say(&[
        "\"Look what we made!\" said {hero}.",
        "\"It is so beautiful,\" said {friend}.",
        "\"We did it!\" they both shouted.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that good things take time.",
            "{Hero} learned to be patient.",
            "They showed it to everyone near the {place}.",
        ],
    );
}
