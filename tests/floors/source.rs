//! Reads files: what one says about itself, without its tests.

use std::collections::BTreeSet;
use std::path::Path;

use syn::{Attribute, Item};

/// All of `src/**/*.rs`: the path under `src` and the text.
pub(crate) fn read_all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    read(&root, &root, &mut sources);
    sources.sort();
    sources
}

fn read(root: &Path, folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            sources.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// One file.
pub(crate) struct Source {
    /// Under `src`.
    pub(crate) path: String,
    /// As `worker::run`.
    pub(crate) module: String,
    /// All lines, tests too.
    pub(crate) lines: usize,
    pub(crate) syntax: syn::File,
}

impl Source {
    fn parse(path: &str, text: &str) -> Result<Self, String> {
        let syntax = syn::parse_file(text)
            .map_err(|error| format!("src/{path}:{}: cannot be read: {error}", error.span().start().line))?;
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        Ok(Self { path: path.to_owned(), module, lines: text.lines().count(), syntax })
    }
}

/// The files that are no tests, and what cannot be read.
pub(crate) fn parse(sources: &[(String, String)]) -> (Vec<Source>, Vec<String>) {
    let (mut files, mut unreadable) = (Vec::new(), Vec::new());
    for (path, text) in sources {
        match Source::parse(path, text) {
            Ok(file) => files.push(file),
            Err(breach) => unreadable.push(breach),
        }
    }
    let mut for_tests = BTreeSet::new();
    for file in &files {
        let at = if is_root(&file.module) { String::new() } else { format!("{}::", file.module) };
        test_modules(&file.syntax.items, &at, false, &mut for_tests);
        if are_for_tests(&file.syntax.attrs) {
            for_tests.insert(file.module.clone());
        }
    }
    files.retain(|file| !for_tests.iter().any(|module| crate::map::within(&file.module, module)));
    (files, unreadable)
}

/// The modules that are declared under `#[cfg(test)]`; `at` is where `items` stand.
fn test_modules(items: &[Item], at: &str, in_tests: bool, found: &mut BTreeSet<String>) {
    for item in items {
        let Item::Mod(module) = item else { continue };
        let for_tests = in_tests || are_for_tests(&module.attrs);
        let name = format!("{at}{}", module.ident);
        match &module.content {
            Some((_, items)) => test_modules(items, &format!("{name}::"), for_tests, found),
            None if for_tests => drop(found.insert(name)),
            None => {}
        }
    }
}

pub(crate) fn is_root(module: &str) -> bool {
    ["lib", "main"].contains(&module)
}

/// Whether there is a `#[cfg(test)]` among `attributes`.
pub(crate) fn are_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}
