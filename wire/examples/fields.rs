//! Prints the tables of fields of `docs/semantics.md`.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

fn main() {
    print!("{}", wire::openai::endpoint::reference());
}
