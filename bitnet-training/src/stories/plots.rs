//! The plots: each goes from a problem over an attempt and help to a happy end.
use super::{
    cast::{FOOD, GLAD, HIDING, MENDING, PLANTS, PRESENTS, SAD, SKILLS, SOUNDS, YOUNG},
    template::Teller,
};

/// Every plot; the story's cast is already chosen.
pub(super) const PLOTS: [fn(&mut Teller); 10] =
    [lost, stuck, broken, afraid, hungry, rain, skill, stray, garden, birthday];

fn day(t: &mut Teller, what: &[&str]) {
    t.choose("day", &["One {weather}", "One day", "One {weather}", "One morning"]);
    let day = t.word("day").replace("{weather}", t.word("weather"));
    t.set("lowday", day.replacen('O', "o", 1));
    t.set("day", day);
    t.say(what);
}

fn feel_sad(t: &mut Teller) {
    t.choose("sad", &SAD);
    t.say(&[
        "{She} felt {sad}.",
        "{Hero} was {sad}.",
        "This made {hero} {sad}.",
        "{Hero} sat down and began to cry.",
    ]);
}

fn ask(t: &mut Teller) {
    t.say(&[
        "\"What is wrong?\" asked {afriend}.",
        "Then {afriend} came by. \"Why are you so sad, {hero}?\" {fhe} asked.",
        "Just then, {afriend} walked by and asked, \"What happened?\"",
        "{Afriend} saw {her} and asked, \"Can I help you?\"",
    ]);
}

fn thanks(t: &mut Teller) {
    t.say(&[
        "\"Thank you, {friend}!\" said {hero}.",
        "{Hero} hugged {friend} and said, \"Thank you!\"",
        "\"You are a true friend,\" {hero} told {friend}.",
        "{Hero} smiled. \"Thank you for your help, {friend},\" {she} said.",
    ]);
}

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

fn toy(t: &mut Teller) {
    t.say(&[
        "{Hero} had a {colour} {toy} that {she} loved very much.",
        "{Hero}'s favourite thing was a {colour} {toy}.",
        "{Hero}'s grandmother had given {her} a {colour} {toy}.",
        "More than anything, {hero} loved {hers} {colour} {toy}.",
    ]);
}

fn lost(t: &mut Teller) {
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

fn stuck(t: &mut Teller) {
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

fn broken(t: &mut Teller) {
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

fn afraid(t: &mut Teller) {
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

fn hungry(t: &mut Teller) {
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

fn rain(t: &mut Teller) {
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

fn skill(t: &mut Teller) {
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

fn stray(t: &mut Teller) {
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

fn garden(t: &mut Teller) {
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

fn birthday(t: &mut Teller) {
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
