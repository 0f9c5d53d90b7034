//! What documents and samples tell to type is understood.

use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use crate::documents;
use crate::flags::Flags;

fn project() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the project is above")
}

#[test]
fn commands_in_documents_are_understood() {
    documents::check_commands(project(), "podwasm", 4, |words| {
        let parsed = Flags::try_parse_from(words).map(drop);
        parsed.or_else(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
            _ => Err(error),
        })
    });
}

/// What is said of `podwasm SUBCOMMAND` in a sentence is about one that there is.
#[test]
fn subcommands_in_sentences_are_there() {
    let known = Flags::command();
    for document in documents::all(project()) {
        for code in document.inline_code() {
            let Some(word) = code
                .strip_prefix("podwasm ")
                .and_then(|rest| rest.split(' ').next())
            else {
                continue;
            };
            let is_there =
                word.starts_with('-') || known.find_subcommand(word).is_some() || word.contains(['.', '…']);
            assert!(is_there, "{}: `{code}`", document.path.display());
        }
    }
}
