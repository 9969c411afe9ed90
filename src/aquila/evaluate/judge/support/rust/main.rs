
// Says that the tests came to their end. Exit code 3: an assertion of the tests failed. 4: something panicked.
fn main() {
    let mut nonce = String::new();
    let read = std::io::stdin().read_line(&mut nonce);
    std::panic::set_hook(Box::new(|_| ()));
    let ended = std::panic::catch_unwind(|| {
        AQUILA_CALLS
    });
    if read.is_err() {
        std::process::exit(1);
    }
    let Err(problem) = ended else {
        use std::io::Write;
        let mut out = std::io::stdout();
        let written = out.write_all(nonce.as_bytes()).and_then(|()| out.flush());
        std::process::exit(if written.is_ok() { 0 } else { 1 });
    };
    let text = match (problem.downcast_ref::<String>(), problem.downcast_ref::<&str>()) {
        (Some(text), _) => text.as_str(),
        (_, Some(text)) => text,
        _ => "it panicked",
    };
    eprintln!("\n{}", text.replace('\n', " "));
    std::process::exit(if text.starts_with("assertion ") { 3 } else { 4 });
}
