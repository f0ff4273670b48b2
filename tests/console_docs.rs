//! The README's table of console commands is the one that the program has.
//!
//! `UPDATE_EXPECT=1 cargo test --test console_docs` writes it anew.

use std::path::Path;

const BEGIN: &str = "<!-- console -->\n";
const END: &str = "<!-- /console -->";

#[test]
fn the_readme_has_every_console_command() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&file).expect("README.md is there");
    let (before, rest) = readme.split_once(BEGIN).expect("the region begins");
    let (table, after) = rest.split_once(END).expect("the region ends");
    let expected = lockstep::console::markdown();
    if table == expected {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        let updated = format!("{before}{BEGIN}{expected}{END}{after}");
        std::fs::write(&file, updated).expect("README.md can be written");
        return;
    }
    panic!(
        "README.md is behind: run with UPDATE_EXPECT=1. It should have\n{expected}\nand has\n{table}"
    );
}
