//! Plots about a thing: lost, stuck, broken, or made for a friend.
use super::{ask, day, ending, feel_sad, thanks, toy};
use crate::stories::{
    cast::{FOOD, HIDING, MENDING, PRESENTS},
    template::Teller,
};

pub(super) fn lost(t: &mut Teller) {
    toy(t);
    let first = t.rng().below(HIDING.len());
    let second = (first + 1 + t.rng().below(HIDING.len() - 1)) % HIDING.len();
    t.set("here", HIDING[first]);
    t.set("there", HIDING[second]);
    day(
        t,
        &[
            "{Day}, {hero} could not find {hers} {toy}.",
            "{Day}, the {toy} was gone.",
            "But {lowday}, {hero} woke up and the {toy} was not there.",
        ],
    );
    feel_sad(t);
    t.say(&[
        "{She} looked {here}, but the {toy} was not there.",
        "First {she} looked {here}, but {she} found nothing.",
        "\"Where is my {toy}?\" {she} said. {She} searched {here}, but it was not there.",
    ]);
    ask(t);
    t.say(&[
        "\"I lost my {toy},\" said {hero}.",
        "\"I cannot find my {colour} {toy},\" {hero} said.",
        "\"My {toy} is gone,\" {hero} answered.",
    ]);
    t.say(&[
        "\"Let us look together,\" said {friend}.",
        "\"Do not worry, we will find it,\" said {friend}.",
        "\"I will help you,\" said {friend}, and they looked everywhere.",
    ]);
    t.say(&[
        "At last, they looked {there}, and there was the {toy}!",
        "{Friend} looked {there} and found the {colour} {toy}.",
        "They walked and walked. Then {friend} saw something {colour} {there}. It was the {toy}!",
    ]);
    thanks(t);
    ending(
        t,
        &[
            "{Hero} learned to take good care of {hers} things.",
            "After that, {hero} always put the {toy} in a safe place.",
            "{Hero} knew that looking together is better than looking alone.",
        ],
    );
}

pub(super) fn stuck(t: &mut Teller) {
    toy(t);
    t.choose("tree", &["tall tree", "old oak", "apple tree", "pear tree"]);
    day(
        t,
        &[
            "{Day}, {hero} played outside, and the {toy} got stuck in a {tree}.",
            "{Day}, the wind blew the {toy} up into a {tree}.",
            "{Day}, {hero} threw the {toy} too high, and it landed on a {tree}.",
        ],
    );
    t.say(&[
        "{Hero} jumped and jumped, but {she} was too small.",
        "{She} tried to reach it, but it was too high.",
        "{She} shook it and pulled, but the {toy} did not come down.",
    ]);
    feel_sad(t);
    ask(t);
    t.say(&[
        "\"My {toy} is stuck in the {tree},\" said {hero}.",
        "\"I cannot reach my {toy},\" said {hero}.",
        "{Hero} pointed up at the {tree}. \"My {toy} is up there,\" {she} said.",
    ]);
    t.choose("tool", &["a long stick", "a ladder", "a rope", "a long pole"]);
    t.say(&[
        "{Friend} had an idea. {Fhe} went home and came back with {tool}.",
        "\"I know what to do,\" said {friend}. {Fhe} ran to get {tool}.",
        "{Friend} thought for a moment. Then {fhe} brought {tool}.",
    ]);
    t.say(&[
        "They used {tool}, and the {toy} came down.",
        "With {tool}, they got the {colour} {toy} down.",
        "Together they used {tool}, and soon {hero} had {hers} {toy} back.",
    ]);
    thanks(t);
    ending(
        t,
        &[
            "{Hero} learned that it is good to ask for help.",
            "{Hero} let {friend} play with the {toy} all day.",
            "After that, {hero} always played with the {toy} far away from the {tree}.",
        ],
    );
}

pub(super) fn broken(t: &mut Teller) {
    toy(t);
    t.choose("mending", &MENDING);
    day(
        t,
        &[
            "{Day}, {hero} tripped over a stone, and the {toy} broke.",
            "{Day}, {hero} dropped the {toy}, and it broke.",
            "{Day}, {hero} sat on the {toy} by mistake. Crack! It was broken.",
        ],
    );
    feel_sad(t);
    t.say(&[
        "{She} tried to fix it, but it fell apart again.",
        "{She} pushed the pieces together, but they did not hold.",
        "{She} tried and tried, but {she} could not mend it alone.",
    ]);
    ask(t);
    t.say(&[
        "\"My {toy} is broken,\" said {hero}.",
        "\"I broke my {colour} {toy},\" {hero} said with a tear in {hers} eye.",
        "{Hero} showed {fhim} the broken {toy}.",
    ]);
    t.say(&[
        "\"We can fix it with {mending},\" said {friend}.",
        "\"I have {mending} at home,\" said {friend}. \"Let us fix it together.\"",
        "{Friend} smiled and said, \"All we need is {mending}.\"",
    ]);
    t.say(&[
        "They worked all afternoon with {mending}, and the {toy} was as good as new.",
        "They used {mending}, and soon the {toy} was whole again.",
        "{Friend} held the pieces, and {hero} used {mending}. Soon the {toy} looked like new.",
    ]);
    thanks(t);
    ending(
        t,
        &[
            "{Hero} learned that broken things can be fixed.",
            "Now {hero} loved the {toy} even more than before.",
            "{Hero} learned to be careful.",
        ],
    );
}

pub(super) fn birthday(t: &mut Teller) {
    t.choose("present", &PRESENTS);
    t.choose("food", &FOOD);
    day(
        t,
        &[
            "{Day}, it was the birthday of {afriend}.",
            "It was the birthday of {afriend}, and {hero} wanted to give {fhim} a present.",
            "Tomorrow was the birthday of {afriend}.",
        ],
    );
    t.say(&[
        "But {hero} had no money to buy a present.",
        "{Hero} went to the shop, but everything cost too much.",
        "{Hero} looked in {hers} pockets, but there was not one coin.",
    ]);
    feel_sad(t);
    t.say(&[
        "\"What can I do?\" {she} thought.",
        "\"I want to make {friend} happy,\" {she} said to {herself}.",
        "\"I must think of something,\" said {hero}.",
    ]);
    t.say(&[
        "Then {she} had an idea. {She} would make {present}!",
        "Then {hero} knew what to do. \"I will make {present},\" {she} said.",
        "{Hers} mother said, \"The best present is one that you make.\" So {hero} made {present}.",
    ]);
    t.say(&[
        "{She} worked on it all day long.",
        "It took a long time, but {she} did not stop.",
        "{She} worked until late in the evening.",
    ]);
    t.say(&[
        "When it was done, {she} brought it to {friend}.",
        "At the party, {hero} gave {present} to {friend}.",
        "{Hero} was shy when {she} gave it to {friend}.",
    ]);
    t.say(&[
        "\"Did you make this for me?\" asked {friend}. \"I love it!\"",
        "{Friend} jumped for joy. \"This is the best present of all!\" {fhe} said.",
        "{Friend} looked at the present and smiled. \"It is wonderful,\" {fhe} said.",
    ]);
    t.say(&[
        "Then they all ate {food} and danced.",
        "After that, they shared some {food}.",
        "They ate {food} and sang songs.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that a present from the heart is the best.",
            "{Hero} learned that you do not need money to make a friend happy.",
            "{Friend} kept the present for many years.",
        ],
    );
}
