//! Macros and attributes hold plain words and signs; here is what can be told from those.

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};

use crate::reader::Reader;

pub(crate) fn line(at: Span) -> usize {
    at.start().line
}

/// Whether `word` is among `tokens`, at any depth.
pub(crate) fn names(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(found) => found == word,
        TokenTree::Group(group) => names(group.stream(), word),
        _ => false,
    })
}

impl Reader {
    pub(crate) fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut index = 0;
        while index < tokens.len() {
            let (before, rest) = tokens.split_at(index);
            index += 1;
            match rest {
                [sign, TokenTree::Group(group), ..] if is_sign(sign, '#') && names(group.stream(), "allow") => {
                    self.forbid_allow(sign.span());
                }
                [TokenTree::Group(group), ..] => self.scan(group.stream()),
                [TokenTree::Ident(name), rest @ ..] if is_member(before) && is_called(rest) => {
                    self.call(name, is_of_self(before));
                }
                [TokenTree::Ident(name), bang, TokenTree::Group(_), ..] if is_sign(bang, '!') => {
                    self.forbid_unfinished(name);
                }
                [TokenTree::Ident(first), rest @ ..] => {
                    let others = path(rest);
                    index += 3 * others.len();
                    self.named(first.span(), [first].into_iter().chain(others).map(Ident::to_string).collect());
                }
                _ => {}
            }
        }
    }
}

fn is_sign(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(sign) if sign.as_char() == wanted)
}

/// Whether `before` ends with one `.`; two are a range.
fn is_member(before: &[TokenTree]) -> bool {
    match before {
        [.., one, two] => is_sign(two, '.') && !is_sign(one, '.'),
        _ => false,
    }
}

/// Whether `before` ends with `self.`, and that is no word in the middle.
fn is_of_self(before: &[TokenTree]) -> bool {
    match before {
        [others @ .., TokenTree::Ident(word), _] => {
            word == "self" && !others.last().is_some_and(|last| is_sign(last, '.'))
        }
        _ => false,
    }
}

/// Whether `(…)` or `::<…>(…)` follows.
fn is_called(rest: &[TokenTree]) -> bool {
    match rest {
        [TokenTree::Group(group), ..] => group.delimiter() == Delimiter::Parenthesis,
        [one, two, open, ..] => is_sign(one, ':') && is_sign(two, ':') && is_sign(open, '<'),
        _ => false,
    }
}

/// The words of `::one::two` at the start of `rest`.
fn path(rest: &[TokenTree]) -> Vec<&Ident> {
    let mut words = Vec::new();
    for part in rest.chunks(3) {
        match part {
            [one, two, TokenTree::Ident(word)] if is_sign(one, ':') && is_sign(two, ':') => words.push(word),
            _ => break,
        }
    }
    words
}
