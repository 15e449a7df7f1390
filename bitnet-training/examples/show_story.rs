//! Prints stories of the grammar: `show_story FIRST COUNT`.

fn main() {
    let number = |i| std::env::args().nth(i).and_then(|a| a.parse::<u64>().ok());
    let first = number(1).unwrap_or(0);
    for seed in first..first + number(2).unwrap_or(1) {
        println!("{}\n", bitnet_training::story(seed));
    }
}
