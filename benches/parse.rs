//! Whether reading takes time in proportion to the text: each shape of Dockerfile at one size and at
//! twice that. `cargo bench --bench parse` shows them side by side.

use divan::counter::BytesCount;
use mica::builder::config_of_changes;
use mica::parser::parse;

fn main() {
    divan::main();
}

/// A shape of Dockerfile: its name, and its text at a size.
struct Shape(&'static str, fn(usize) -> String);

impl std::fmt::Display for Shape {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0)
    }
}

const SHAPES: [Shape; 9] = [
    Shape("10 MB of LABELs", |size| {
        let line = format!("LABEL a=\"{}\"\n", "x y ".repeat(1000));
        repeat(&line, size * 10_000_000 / line.len())
    }),
    Shape("20,000 instructions", |size| {
        let lines = "ENV k=v\nRUN make all\nCOPY a b /c/\nCMD [\"a\", \"b\"]\n";
        repeat(lines, size * 5_000)
    }),
    Shape("a line of 10 MB", |size| format!("LABEL a={}\n", "x".repeat(size * 10_000_000))),
    Shape("10 MB of words in a line", |size| {
        format!("ENV {}\n", "a=\"b c\" ".repeat(size * 1_250_000))
    }),
    Shape("a heredoc of 10 MB", |size| {
        format!("COPY <<EOF /x\n{}EOF\n", "text and $v\n".repeat(size * 830_000))
    }),
    Shape("100,000 continuation lines", |size| {
        format!("RUN a{}\n", " \\\n  && b".repeat(size * 100_000))
    }),
    Shape("20,000 ENVs, each of earlier ones", |size| {
        let line = |n: usize| format!("ENV v{n}=${{v{}:0}}x$v{}\n", n.saturating_sub(1), n / 2);
        (0..size * 20_000).map(line).collect::<String>().replace(":0}", ":+y}")
    }),
    Shape("5,000 stages in a chain", |size| {
        let stage = |n: usize| format!("FROM s{n} AS s{}\nENV a=b\nLABEL c=d\n", n + 1);
        format!("FROM scratch AS s0\n{}", (0..size * 5_000).map(stage).collect::<String>())
    }),
    Shape("5,000 stages for one", |size| {
        let stage = |n: usize| format!("FROM scratch AS s{n}\nCOPY <<E /f\n\nE\n");
        let copy = |n: usize| format!("COPY --from=s{n} /f /f{n}\n");
        let stages: String = (0..size * 5_000).map(stage).collect();
        let copies: String = (0..size * 5_000).map(copy).collect();
        format!("{stages}FROM scratch\n{copies}")
    }),
];

fn repeat(lines: &str, count: usize) -> String {
    format!("FROM scratch\n{}", lines.repeat(count))
}

fn text(shape: &Shape, size: usize) -> String {
    let text = (shape.1)(size);
    if text.starts_with("FROM") { text } else { format!("FROM scratch\n{text}") }
}

#[divan::bench(args = SHAPES, consts = [1, 2], sample_count = 5, sample_size = 1)]
fn reading<const SIZE: usize>(bencher: divan::Bencher<'_, '_>, shape: &Shape) {
    let text = text(shape, SIZE);
    bencher.counter(BytesCount::of_str(&text)).bench(|| parse(text.as_bytes()));
}

/// Parsing and lowering. Where steps make files, it ends with a refusal: it is all done by then.
#[divan::bench(args = SHAPES, consts = [1, 2], sample_count = 5, sample_size = 1)]
fn lowering<const SIZE: usize>(bencher: divan::Bencher<'_, '_>, shape: &Shape) {
    let text = text(shape, SIZE);
    bencher
        .counter(BytesCount::of_str(&text))
        .bench(|| config_of_changes(std::slice::from_ref(&text)));
}
