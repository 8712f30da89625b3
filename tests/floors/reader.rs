//! Walks through one file, past its tests, and notes what it names.

use proc_macro2::{Ident, Span, TokenStream};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

use crate::source::{Source, are_for_tests};
use crate::tokens::{line, names};
use crate::uses::{Call, Defined, File, Found, Inherent, Receiver};

pub(crate) fn read(source: &Source) -> File {
    let Source { path, module, lines, syntax } = source;
    let file = File { path: path.clone(), module: module.clone(), lines: *lines, ..File::default() };
    let mut reader = Reader { file, inside: Vec::new(), this: Vec::new() };
    reader.visit_file(syntax);
    reader.file
}

pub(crate) struct Reader {
    file: File,
    inside: Vec<String>,
    /// The types that `Self` stands for, the innermost last.
    this: Vec<Option<Vec<String>>>,
}

/// The attributes of an item or expression, whichever it is.
macro_rules! attributes {
    ($of:expr, $kind:ident: $($variant:ident)*) => {
        match $of {
            $($kind::$variant(one) => one.attrs.as_slice(),)*
            _ => &[],
        }
    };
}

/// Visits `$of` in the usual way unless it is for tests.
macro_rules! unless_for_tests {
    ($($name:ident: $type:ty;)*) => {
        $(fn $name(&mut self, of: &'ast $type) {
            if !are_for_tests(&of.attrs) {
                visit::$name(self, of);
            }
        })*
    };
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = attributes!(item, Item: Const Enum ExternCrate Fn ForeignMod Impl Macro Mod Static Struct Trait
            TraitAlias Type Union Use);
        if are_for_tests(attributes) {
            let span = item.span();
            self.file.lines -= span.end().line - span.start().line + 1;
            return;
        }
        let defined = match item {
            Item::Struct(item) => Some((&item.ident, &item.vis)),
            Item::Enum(item) => Some((&item.ident, &item.vis)),
            Item::Union(item) => Some((&item.ident, &item.vis)),
            Item::Trait(item) => Some((&item.ident, &item.vis)),
            Item::TraitAlias(item) => Some((&item.ident, &item.vis)),
            Item::Type(item) => Some((&item.ident, &item.vis)),
            _ => None,
        };
        if let Some((name, seen_by)) = defined {
            let is_public = !matches!(seen_by, Visibility::Inherited);
            self.file.types.push(Defined { line: line(name.span()), name: name.to_string(), is_public });
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !are_for_tests(attributes!(item, ImplItem: Const Fn Type Macro)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        if !are_for_tests(attributes!(item, TraitItem: Const Fn Type Macro)) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_expr(&mut self, code: &'ast Expr) {
        let attributes = attributes!(code, Expr: Array Assign Async Await Binary Block Break Call Cast Closure Const
            Continue Field ForLoop Group If Index Infer Let Lit Loop Macro Match MethodCall Paren Path Range RawAddr
            Reference Repeat Return Struct Try TryBlock Tuple Unary Unsafe While Yield);
        if !are_for_tests(attributes) {
            visit::visit_expr(self, code);
        }
    }

    unless_for_tests! {
        visit_arm: syn::Arm;
        visit_field: syn::Field;
        visit_field_value: syn::FieldValue;
        visit_local: syn::Local;
        visit_stmt_macro: syn::StmtMacro;
        visit_variant: syn::Variant;
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inside.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.inside.pop();
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        let of = match &*block.self_ty {
            Type::Path(of) => Some(words(&of.path)),
            _ => None,
        };
        if let (Some(of), None) = (&of, &block.trait_) {
            let names = block.items.iter().filter_map(|item| match item {
                ImplItem::Fn(item) if !are_for_tests(&item.attrs) => Some(&item.sig.ident),
                ImplItem::Const(item) if !are_for_tests(&item.attrs) => Some(&item.ident),
                _ => None,
            });
            self.file.inherent.extend(names.map(|name| Inherent { of: of.clone(), name: name.to_string() }));
        }
        self.this.push(of);
        visit::visit_item_impl(self, block);
        self.this.pop();
    }

    fn visit_item_trait(&mut self, block: &'ast syn::ItemTrait) {
        self.this.push(None);
        visit::visit_item_trait(self, block);
        self.this.pop();
    }

    fn visit_trait_item_fn(&mut self, method: &'ast syn::TraitItemFn) {
        self.file.of_traits.push(method.sig.ident.to_string());
        visit::visit_trait_item_fn(self, method);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name);
        self.found(item.ident.span(), vec![item.ident.to_string()], Some(name.to_string()));
    }

    /// `pub(in …)` says who may see, not who is used.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let list = attribute.meta.require_list().ok();
        if attribute.path().is_ident("allow") || list.is_some_and(|list| names(list.tokens.clone(), "allow")) {
            self.forbid_allow(attribute.pound_token.span);
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.named(path.segments[0].ident.span(), words(path));
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let of_self = matches!(&*call.receiver, Expr::Path(path) if path.path.is_ident("self"));
        self.call(&call.method, of_self);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        if let Some(name) = of.path.get_ident() {
            self.forbid_unfinished(name);
        }
        visit::visit_macro(self, of);
    }

    /// What stands in a macro's brackets or an attribute's.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.scan(tokens.clone());
    }
}

impl Reader {
    /// What a `use` leads to, `before` its path so far.
    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |word: &Ident| before.iter().cloned().chain([word.to_string()]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
            UseTree::Name(name) => self.imported(&name.ident, with(&name.ident), None),
            UseTree::Rename(name) => self.imported(&name.ident, with(&name.ident), Some(&name.rename)),
            UseTree::Glob(glob) => self.found(glob.star_token.span, [before, &["*".to_owned()]].concat(), None),
        }
    }

    fn imported(&mut self, last: &Ident, mut words: Vec<String>, rename: Option<&Ident>) {
        if last == "self" && words.len() > 1 {
            words.pop();
        }
        let name = rename.map(Ident::to_string).or_else(|| words.last().cloned());
        self.found(last.span(), words, name);
    }

    /// A path in code; one word alone leads nowhere that a `use` does not tell.
    pub(crate) fn named(&mut self, at: Span, mut words: Vec<String>) {
        if words.len() > 1 {
            if let (true, Some(Some(this))) = (words[0] == "Self", self.this.last()) {
                words.splice(..1, this.clone());
            }
            self.found(at, words, None);
        }
    }

    fn found(&mut self, at: Span, words: Vec<String>, imported: Option<String>) {
        self.file.paths.push(Found { line: line(at), words, imported, inside: self.inside.clone() });
    }

    pub(crate) fn call(&mut self, name: &Ident, of_self: bool) {
        if name == "unwrap" {
            self.file.forbidden.push((line(name.span()), "`unwrap` outside tests".to_owned()));
        }
        let this = || Receiver::This(self.this.last().cloned().flatten());
        let receiver = if of_self { this() } else { Receiver::Other };
        self.file.calls.push(Call { line: line(name.span()), name: name.to_string(), receiver });
    }

    pub(crate) fn forbid_unfinished(&mut self, name: &Ident) {
        if name == "todo" || name == "unimplemented" {
            self.file.forbidden.push((line(name.span()), format!("`{name}!` is unfinished work")));
        }
    }

    pub(crate) fn forbid_allow(&mut self, at: Span) {
        self.file.forbidden.push((line(at), "`allow` hides what `expect` would explain".to_owned()));
    }
}

fn words(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}
