//! What one file names: paths, calls of methods, and what it defines for others.

use std::collections::BTreeSet;

use crate::source::is_root;

/// A file without its tests.
#[derive(Default)]
pub(crate) struct File {
    /// Under `src`.
    pub(crate) path: String,
    /// As `worker::run`.
    pub(crate) module: String,
    /// Without tests.
    pub(crate) lines: usize,
    pub(crate) paths: Vec<Found>,
    pub(crate) calls: Vec<Call>,
    /// Structs, enums, traits and the like.
    pub(crate) types: Vec<Defined>,
    /// What it implements for types without a trait.
    pub(crate) inherent: Vec<Inherent>,
    /// The methods of the traits that it declares.
    pub(crate) of_traits: Vec<String>,
    /// What the style forbids, and where.
    pub(crate) forbidden: Vec<(usize, String)>,
}

/// A path as it stands in a source.
pub(crate) struct Found {
    pub(crate) line: usize,
    pub(crate) words: Vec<String>,
    /// The name by which a `use` makes it known.
    pub(crate) imported: Option<String>,
    /// The modules in braces that it stands in.
    pub(crate) inside: Vec<String>,
}

/// A call of a method: `receiver.name(…)`.
pub(crate) struct Call {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) receiver: Receiver,
}

pub(crate) enum Receiver {
    /// `self`, and the type that it stands for; none in a trait.
    This(Option<Vec<String>>),
    Other,
}

pub(crate) struct Defined {
    pub(crate) line: usize,
    pub(crate) name: String,
    /// `pub` or `pub(…)`.
    pub(crate) is_public: bool,
}

pub(crate) struct Inherent {
    /// The path of the type.
    pub(crate) of: Vec<String>,
    pub(crate) name: String,
}

/// Where a path leads.
pub(crate) enum Target {
    Module(String),
    Crate(String),
}

impl File {
    /// The names of all that is called, and where: `receiver.name(…)` and `Type::name`.
    pub(crate) fn called(&self) -> impl Iterator<Item = (usize, &str)> {
        let paths = self.paths.iter().filter(|path| path.imported.is_none());
        let paths = paths.filter_map(|path| Some((path.line, path.words.last()?.as_str())));
        self.calls.iter().map(|call| (call.line, call.name.as_str())).chain(paths)
    }

    /// All that the file names, and where.
    pub(crate) fn targets(&self, modules: &BTreeSet<String>) -> Vec<(usize, Target)> {
        // A name that was imported from this crate is no crate of that name.
        let ours = self.paths.iter().filter(|path| self.resolve(path, modules).is_some());
        let ours: BTreeSet<&str> = ours.filter_map(|path| path.imported.as_deref()).collect();
        let leads = |path: &Found| match self.resolve(path, modules) {
            Some(module) => Some((path.line, Target::Module(module))),
            None if ours.contains(path.words[0].as_str()) => None,
            None => Some((path.line, Target::Crate(path.words[0].clone()))),
        };
        self.paths.iter().filter_map(leads).collect()
    }

    fn resolve(&self, path: &Found, modules: &BTreeSet<String>) -> Option<String> {
        self.leads_to(&path.words, &path.inside, modules)
    }

    /// The module of this crate that `words`, read in the modules `inside` of this file, lead to, if they do.
    pub(crate) fn leads_to(&self, words: &[String], inside: &[String], modules: &BTreeSet<String>) -> Option<String> {
        let mut at: Vec<&str> = self.module.split("::").chain(inside.iter().map(String::as_str)).collect();
        if is_root(&self.module) {
            at.remove(0);
        }
        let mut words = words.iter().map(String::as_str).peekable();
        match words.peek().copied()? {
            "crate" | "agentkit_worker" => {
                words.next();
                at.clear();
            }
            "self" => drop(words.next()),
            "super" => {
                while words.next_if_eq(&"super").is_some() {
                    at.pop();
                }
            }
            first => {
                let child = at.iter().copied().chain([first]).collect::<Vec<_>>().join("::");
                if !modules.contains(&child) {
                    return None;
                }
            }
        }
        let full: Vec<&str> = at.into_iter().chain(words.filter(|word| *word != "self" && *word != "*")).collect();
        let longest = (1..=full.len()).rev().map(|length| full[..length].join("::"));
        let unknown = full.first().filter(|first| first.starts_with(char::is_lowercase) && full.len() > 1);
        let found = longest.into_iter().find(|module| modules.contains(module));
        Some(found.or_else(|| unknown.map(|first| (*first).to_owned())).unwrap_or_else(|| "lib".to_owned()))
    }
}
