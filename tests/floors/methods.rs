//! Who uses whom by methods: a file that calls a method needs the file that defines it, though no path says so.
//!
//! A parser knows no types. What is certain is followed everywhere: `self.name(…)`, `Self::name` and `Type::name`. Any
//! other `receiver.name(…)` is followed within the modules of [`BY_NAME`], where only one block of the crate defines
//! `name`, no trait of the crate does, and no library is known for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::COMMON;
use crate::map::top;
use crate::uses::{File, Receiver};

/// Where a call is followed by the name of the method alone.
const BY_NAME: [&str; 3] = ["agent", "sandbox", "worker"];

/// A type by the module that defines it and its name.
type Id = (String, String);

pub(crate) struct Methods<'a> {
    modules: &'a BTreeSet<String>,
    /// Where a type of that name is defined.
    types: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Where a type's own methods are defined.
    of_types: BTreeMap<(Id, &'a str), BTreeSet<&'a str>>,
    /// The types that have a method of that name, each with the module that defines the method.
    by_name: BTreeMap<&'a str, BTreeSet<(Id, &'a str)>>,
    of_traits: BTreeSet<&'a str>,
}

impl<'a> Methods<'a> {
    pub(crate) fn new(files: &'a [File], modules: &'a BTreeSet<String>) -> Self {
        let mut methods = Self {
            modules,
            types: BTreeMap::new(),
            of_types: BTreeMap::new(),
            by_name: BTreeMap::new(),
            of_traits: files.iter().flat_map(|file| &file.of_traits).map(String::as_str).collect(),
        };
        for file in files {
            for defined in &file.types {
                methods.types.entry(&defined.name).or_default().insert(&file.module);
            }
        }
        for file in files {
            for method in &file.inherent {
                let Some(id) = methods.type_at(file, &method.of) else { continue };
                methods.of_types.entry((id.clone(), &method.name)).or_default().insert(&file.module);
                methods.by_name.entry(&method.name).or_default().insert((id, &file.module));
            }
        }
        methods
    }

    /// The modules that `file` needs for the methods it uses: the line, the module, and the method as it is written.
    pub(crate) fn used_by(&self, file: &File) -> Vec<(usize, &'a str, String)> {
        let mut uses = Vec::new();
        for path in &file.paths {
            if let ([of @ .., name], None) = (path.words.as_slice(), &path.imported) {
                let modules = self.of_type(file, of, name);
                let shown = format!("{}::{name}", of.last().map_or("", String::as_str));
                uses.extend(modules.into_iter().map(|module| (path.line, module, shown.clone())));
            }
        }
        for call in &file.calls {
            match &call.receiver {
                Receiver::This(Some(this)) => {
                    let modules = self.of_type(file, this, &call.name);
                    uses.extend(modules.into_iter().map(|module| (call.line, module, format!("self.{}", call.name))));
                }
                Receiver::This(None) => {}
                Receiver::Other => {
                    let module = self.only_one(&call.name).filter(|module| top(module) == top(&file.module));
                    uses.extend(module.map(|module| (call.line, module, format!(".{}", call.name))));
                }
            }
        }
        uses
    }

    fn of_type(&self, file: &File, of: &[String], name: &str) -> Vec<&'a str> {
        let modules = self.type_at(file, of).and_then(|id| self.of_types.get(&(id, name)));
        modules.into_iter().flatten().copied().collect()
    }

    fn only_one(&self, name: &str) -> Option<&'a str> {
        let known = self.by_name.get(name)?;
        let (_, module) = known.first().filter(|_| known.len() == 1)?;
        let is_ours = BY_NAME.contains(&top(module)) && !COMMON.contains(&name) && !self.of_traits.contains(name);
        is_ours.then_some(module)
    }

    /// The type that `words` mean in `file`.
    fn type_at(&self, file: &File, words: &[String]) -> Option<Id> {
        let (first, rest) = words.split_first()?;
        if rest.is_empty() && self.defines(&file.module, first) {
            return Some((file.module.clone(), first.clone()));
        }
        let import = file.paths.iter().find(|path| path.imported.as_ref() == Some(first));
        let (path, inside) = match import {
            Some(import) => ([&import.words, rest].concat(), import.inside.as_slice()),
            None => (words.to_vec(), [].as_slice()),
        };
        // Where no `use` names it, it comes in with a `*`; where it is passed on (`pub use`), it is defined elsewhere: it
        // is known by its name then, if that is the only one.
        let from_anywhere = import.is_none() && rest.is_empty();
        let module = if from_anywhere { None } else { Some(file.leads_to(&path, inside, self.modules)?) };
        let name = path.last()?;
        let module = module.filter(|module| self.defines(module, name)).or_else(|| {
            let homes = self.types.get(name.as_str())?;
            homes.first().filter(|_| homes.len() == 1).map(|home| (*home).to_owned())
        })?;
        Some((module, name.clone()))
    }

    fn defines(&self, module: &str, name: &str) -> bool {
        self.types.get(name).is_some_and(|homes| homes.contains(module))
    }
}
