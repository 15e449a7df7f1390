//! Plots about others: a fright, a hungry stranger, a wet picnic, a lost little one.
use super::{day, ending};
use crate::stories::{
    cast::{FOOD, SOUNDS, YOUNG},
    template::Teller,
};

pub(super) fn afraid(t: &mut Teller) {
    let (sound, cause, doing) = SOUNDS[t.rng().below(SOUNDS.len())];
    t.set("sound", sound);
    t.set("cause", cause);
    t.set("doing", doing);
    t.say(&[
        "One night, {hero} heard {sound}.",
        "One dark night, {hero} was in bed when {she} heard {sound}.",
        "One evening, just before bed, {hero} heard {sound}.",
    ]);
    t.say(&[
        "{She} was afraid and hid under {hers} blanket.",
        "\"What is that?\" {she} whispered. {Hers} heart beat fast.",
        "{She} was so scared that {she} could not sleep.",
    ]);
    t.say(&[
        "Then {she} heard it again.",
        "The sound came again and again.",
        "{She} waited, but the sound did not stop.",
    ]);
    t.say(&[
        "{Hero} ran to {afriend}. \"There is a monster outside!\" {she} cried.",
        "{Hero} called for {afriend}. \"I am afraid,\" {she} said.",
        "So {hero} went to {afriend} and said, \"I heard {sound}. Please help me!\"",
    ]);
    t.say(&[
        "\"Let us go and look together,\" said {friend}.",
        "{Friend} took a lamp. \"Hold my hand,\" {fhe} said.",
        "\"Do not be afraid,\" said {friend}. \"I will go with you.\"",
    ]);
    t.say(&[
        "Slowly they went outside. It was only {cause} {doing}!",
        "They looked, and what did they see? It was just {cause}, {doing}.",
        "They opened the door and found {cause} {doing}. There was no monster at all.",
    ]);
    t.say(&[
        "{Hero} began to laugh. \"I was afraid of {cause}!\" {she} said.",
        "They both laughed and laughed.",
        "\"It was only {cause},\" said {hero}, and {she} felt much better.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that a brave heart looks before it runs.",
            "After that, {hero} was not afraid of the dark.",
            "{Hero} learned that scary things are smaller when you have a friend.",
        ],
    );
}

pub(super) fn hungry(t: &mut Teller) {
    t.choose("food", &FOOD);
    t.choose(
        "trouble",
        &["fell into a deep hole", "got lost in the forest", "slipped into the cold river"],
    );
    day(
        t,
        &[
            "{Day}, {hero} made some {food} and carried it to the {place}.",
            "{Day}, {hero} had some {food} for lunch.",
            "{Day}, {hero} walked along the path with some {food} in a basket.",
        ],
    );
    t.say(&[
        "On the way, {she} met {afriend}, who looked thin and tired.",
        "Soon {she} saw {afriend} sitting under a tree.",
        "There {she} found {afriend}, who was sad.",
    ]);
    t.say(&[
        "\"I am so hungry,\" said {friend}. \"I have nothing to eat.\"",
        "\"I have not eaten all day,\" {friend} said.",
        "\"Please, may I have some {food}?\" asked {friend}.",
    ]);
    t.say(&[
        "{Hero} was hungry too, but {she} gave {fhim} half of the {food}.",
        "{Hero} thought about it. Then {she} shared the {food} with {fhim}.",
        "\"Here, take some of my {food},\" said {hero}. They ate together.",
    ]);
    t.say(&[
        "\"Thank you! I will never forget this,\" said {friend}.",
        "\"You are so kind,\" said {friend} with a big smile.",
        "{Friend} ate every bit and thanked {her}.",
    ]);
    t.say(&[
        "The next day, {hero} {trouble}.",
        "A week later, {hero} {trouble}.",
        "On the way home, {hero} {trouble}.",
    ]);
    t.say(&[
        "\"Help!\" {she} cried. {Friend} heard {her} and came running.",
        "{She} called for help, and who came? It was {friend}!",
        "{She} was afraid, but {friend} heard {her} call.",
    ]);
    let rescue: &[&str] = match t.word("trouble") {
        "got lost in the forest" => &["{Friend} knew the way and led {her} home."],
        _ => &[
            "{Friend} threw {her} a rope and pulled {her} out.",
            "{Friend} held out a long branch and pulled {her} out.",
        ],
    };
    t.say(rescue);
    t.say(&[
        "\"You helped me, and now I helped you,\" said {friend}.",
        "\"Now you are safe,\" said {friend}.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that a kind deed always comes back.",
            "{Hero} was glad that {she} had shared the {food}.",
            "After that, they shared everything.",
        ],
    );
}

pub(super) fn rain(t: &mut Teller) {
    t.choose("food", &FOOD);
    t.choose(
        "shelter",
        &["an old barn", "a dry cave", "a hollow tree", "a small tent", "an empty hut"],
    );
    day(
        t,
        &[
            "{Day}, {hero} wanted to have a picnic with {afriend}.",
            "{Day}, {hero} and {afriend} went to the {place} for a picnic.",
            "{Day}, {hero} asked {afriend} to come to a picnic.",
        ],
    );
    t.say(&[
        "They packed some {food} and a blanket.",
        "{Hero} brought {food}, and {friend} brought a blanket.",
        "In {hers} basket {she} had a lot of {food}.",
    ]);
    t.say(&[
        "But then dark clouds came, and it began to rain.",
        "Suddenly, it started to rain hard.",
        "But the sky turned grey, and big drops fell on their heads.",
    ]);
    t.say(&[
        "\"Oh no, our {food} will get wet!\" said {hero}.",
        "\"Our picnic is ruined,\" said {hero}. {She} was sad.",
        "{Hero} held the blanket over the {food}, but it did not help.",
    ]);
    t.say(&[
        "\"I know a place,\" said {friend}. \"Follow me!\"",
        "\"Do not be sad,\" said {friend}. \"I have an idea.\"",
        "{Friend} looked around. \"Look over there!\" {fhe} said.",
    ]);
    t.say(&[
        "{Fhe} led {her} to {shelter}, where it was warm and dry.",
        "They ran to {shelter} and sat down inside.",
        "They found {shelter} and went in, out of the rain.",
    ]);
    t.say(&[
        "There they ate the {food} and told stories.",
        "They ate all the {food} and listened to the rain.",
        "There was enough {food} for both, and they ate until they were full.",
    ]);
    t.say(&[
        "When the rain stopped, there was a rainbow over the {place}.",
        "Then the sun came out, and they saw a big rainbow.",
        "Soon the rain was over, and the whole {place} was shining.",
    ]);
    t.say(&[
        "\"This was the best picnic ever,\" said {hero}.",
        "\"How pretty!\" said {hero}.",
        "\"I like the rain now,\" said {hero}.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that a rainy day can be a good day.",
            "They learned that plans can change and still be fun.",
            "After that, they went to {shelter} every time it rained.",
        ],
    );
}

pub(super) fn stray(t: &mut Teller) {
    let (young, mother, at) = YOUNG[t.rng().below(YOUNG.len())];
    t.set("young", young);
    t.set("mother", mother);
    t.set("at", at);
    day(
        t,
        &[
            "{Day}, {hero} went for a walk and heard someone crying. It was a {young}.",
            "{Day}, {hero} was playing near the {place} when {she} saw a {young}.",
            "{Day}, {hero} and {afriend} found a {young} on the path.",
        ],
    );
    t.say(&[
        "The tiny {young} was all alone.",
        "The {young} was lost and very scared.",
        "The little {young} was cold and hungry.",
    ]);
    t.say(&[
        "\"What is wrong, little one?\" asked {hero}.",
        "\"Why are you crying?\" {hero} asked.",
        "{Hero} knelt down. \"Are you lost?\" {she} asked.",
    ]);
    t.say(&[
        "\"I cannot find my mother,\" said the {young}.",
        "\"I want my mother,\" cried the {young}.",
        "\"I ran too far, and now I am lost,\" said the {young}.",
    ]);
    t.say(&[
        "{Hero} looked all around, but {she} did not see a {mother}.",
        "{Hero} called out loud, but no {mother} came.",
        "They asked everyone, but nobody had seen the {mother}.",
    ]);
    t.say(&[
        "Then {friend} said, \"I saw a {mother} {at}. Let us go there.\"",
        "{Friend} the {animal} had an idea. \"Let us look {at},\" {fhe} said.",
        "{Friend} came to help. \"I think your mother is {at},\" {fhe} said.",
    ]);
    t.say(&[
        "They went there, and the {mother} was waiting {at}.",
        "They carried the {young} there. \"My baby!\" cried the {mother}.",
        "And there was the {mother}! The {young} ran to its mother.",
    ]);
    t.say(&[
        "\"Thank you for bringing my baby home,\" said the {mother}.",
        "The {mother} hugged the {young} and thanked them.",
        "\"You are both so kind,\" said the {mother}.",
    ]);
    ending(
        t,
        &[
            "{Hero} learned that even small helpers can do big things.",
            "After that, the {young} came to play with them every day.",
            "{Hero} waved to the {young} and felt warm inside.",
        ],
    );
}
