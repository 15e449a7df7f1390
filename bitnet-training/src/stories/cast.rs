//! The characters, things and places of the stories.

/// Girls' names; every name is in one list only, so that it determines the pronoun.
pub(super) const GIRLS: [&str; 14] = [
    "Lily", "Mia", "Anna", "Sara", "Emma", "Nora", "Lucy", "Ella", "Rosie", "Molly", "Daisy",
    "Ivy", "Hanna", "Zoe",
];
/// Boys' names.
pub(super) const BOYS: [&str; 14] = [
    "Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Finn", "Tim", "Oscar", "Noah", "Hugo", "Peter",
    "Theo", "Will",
];
/// Animals that can be heroes or friends, each with the noun of its home.
pub(super) const ANIMALS: [(&str, &str); 12] = [
    ("rabbit", "burrow"),
    ("fox", "den"),
    ("bear", "cave"),
    ("mouse", "little hole"),
    ("squirrel", "hollow tree"),
    ("hedgehog", "pile of leaves"),
    ("duck", "nest by the pond"),
    ("frog", "pond"),
    ("cat", "red barn"),
    ("dog", "wooden hut"),
    ("owl", "tall oak"),
    ("badger", "warm den"),
];
/// Places near which a story happens.
pub(super) const PLACES: [&str; 10] =
    ["forest", "village", "river", "garden", "farm", "lake", "hill", "meadow", "beach", "old mill"];
/// Words for a character's size or age.
pub(super) const SIZES: [&str; 3] = ["little", "small", "young"];
/// What a character is like.
pub(super) const TRAITS: [&str; 8] =
    ["kind", "brave", "curious", "happy", "shy", "clever", "gentle", "cheerful"];
/// Colours.
pub(super) const COLOURS: [&str; 7] =
    ["red", "blue", "green", "yellow", "golden", "white", "purple"];
/// Toys that can be lost, broken or stuck.
pub(super) const TOYS: [&str; 10] =
    ["ball", "kite", "boat", "drum", "hat", "scarf", "doll", "lantern", "wagon", "bell"];
/// Places in which to look for a lost thing.
pub(super) const HIDING: [&str; 9] = [
    "under the bed",
    "behind the door",
    "in the tall grass",
    "under a bush",
    "near the well",
    "behind a big rock",
    "in the old shed",
    "under the bridge",
    "beside the fence",
];
/// Food to share.
pub(super) const FOOD: [&str; 8] =
    ["bread", "cake", "cheese", "pie", "pancakes", "berries", "nuts", "honey"];
/// Skills to learn, as verbs.
pub(super) const SKILLS: [&str; 8] =
    ["swim", "whistle", "dance", "sing", "climb", "paint", "skate", "juggle"];
/// Weathers of a good day.
pub(super) const WEATHER: [&str; 6] = [
    "sunny morning",
    "warm day",
    "windy day",
    "cool autumn day",
    "bright spring morning",
    "quiet afternoon",
];
/// Young animals that lose their mother, and where she is.
pub(super) const YOUNG: [(&str, &str, &str); 6] = [
    ("duckling", "duck", "at the pond"),
    ("kitten", "cat", "in the barn"),
    ("puppy", "dog", "at the farm"),
    ("lamb", "sheep", "in the meadow"),
    ("baby bird", "bird", "in a tall tree"),
    ("piglet", "pig", "behind the farm"),
];
/// Frightening sounds, and what made them.
pub(super) const SOUNDS: [(&str, &str, &str); 6] = [
    ("a strange tapping sound", "a branch", "tapping on the window"),
    ("a loud bang", "the old gate", "moving in the wind"),
    ("a soft scratching sound", "a tiny mouse", "looking for crumbs"),
    ("a long low howl", "the wind", "blowing in the chimney"),
    ("a funny squeak", "a rusty wheel", "turning on the old cart"),
    ("a splash in the dark", "a fish", "jumping in the water"),
];
/// Seeds, and what grows out of them.
pub(super) const PLANTS: [(&str, &str); 6] = [
    ("pumpkin", "a huge orange pumpkin"),
    ("sunflower", "a tall yellow sunflower"),
    ("apple", "a small apple tree"),
    ("rose", "a lovely red rose"),
    ("bean", "a long green bean plant"),
    ("strawberry", "a row of sweet strawberries"),
];
/// Ways to mend a thing.
pub(super) const MENDING: [&str; 5] =
    ["glue", "string", "tape", "a needle and thread", "a hammer and nails"];
/// Presents that can be made by hand.
pub(super) const PRESENTS: [&str; 6] = [
    "a crown of flowers",
    "a wooden flute",
    "a warm blanket",
    "a chain of shells",
    "a picture",
    "a bird house",
];
/// Good feelings.
pub(super) const GLAD: [&str; 5] = ["happy", "glad", "proud", "full of joy", "very happy"];
/// Bad feelings.
pub(super) const SAD: [&str; 4] = ["sad", "very sad", "upset", "worried"];
