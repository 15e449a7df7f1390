//! Draws the log of a run: `draw_curve TRAINING.CSV TITLE > CURVE.SVG`.

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [log, title] = arguments.as_slice() else {
        return Err(std::io::Error::other("usage: draw_curve TRAINING.CSV TITLE"));
    };
    let svg = bitnet_training::training_curve(&std::fs::read_to_string(log)?, title);
    print!("{}", svg.ok_or_else(|| std::io::Error::other("the log holds fewer than two steps"))?);
    Ok(())
}
