//! Addresses as they stand in Markdown and HTML: what a viewer reads, whatever they are written like.

/// Whether a scheme may have it.
pub(super) fn is_scheme_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+.-".contains(&byte)
}

/// Whether `text` may stand before the colon of an address.
pub(super) fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_scheme_byte)
}

/// The values of a tag's attributes.
pub(super) fn values(tag: &str) -> impl Iterator<Item = String> {
    let mut rest = tag;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| *c == '"' || *c == '\'');
        let (value, left) = match quote {
            Some(quote) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
            None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
        };
        rest = left;
        Some(value.to_owned())
    })
}

/// What an image says of itself in words.
pub(super) fn alternative(tag: &str) -> Option<String> {
    let lower = tag.to_ascii_lowercase();
    let at = lower.find(" alt=")?;
    let words = values(tag.get(at..)?).next()?;
    // It is text, not markup.
    let is_plain = |c: char| c.is_alphanumeric() || " .,-'".contains(c);
    Some(words.chars().filter(|c| is_plain(*c)).collect())
}

/// `text` with its backslashes and character references as a viewer reads them.
pub(super) fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['&', '\\']) {
        out.push_str(&rest[..at]);
        let special = &rest[at..];
        let (character, length) = if special.starts_with('&') { reference(special) } else { (escaped(special), 2) };
        match character {
            Some(character) => {
                out.push(character);
                rest = &special[length..];
            }
            None => {
                out.push_str(&special[..1]);
                rest = &special[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn escaped(text: &str) -> Option<char> {
    text.chars().nth(1).filter(char::is_ascii_punctuation)
}

/// The character that `text` begins with a reference to, and its length. Those by name that an address may be made of.
fn reference(text: &str) -> (Option<char>, usize) {
    const NAMES: [(&str, char); 14] = [
        ("amp", '&'),
        ("colon", ':'),
        ("sol", '/'),
        ("bsol", '\\'),
        ("period", '.'),
        ("commat", '@'),
        ("quest", '?'),
        ("num", '#'),
        ("equals", '='),
        ("percnt", '%'),
        ("lpar", '('),
        ("rpar", ')'),
        ("Tab", '\t'),
        ("NewLine", '\n'),
    ];
    let inner = &text[1..];
    if let Some(number) = inner.strip_prefix('#') {
        let (digits, radix, before) = match number.strip_prefix(['x', 'X']) {
            Some(digits) => (digits, 16, 3),
            None => (number, 10, 2),
        };
        let count = digits.chars().take_while(|digit| digit.is_digit(radix)).count();
        let character = u32::from_str_radix(&digits[..count], radix).ok().and_then(char::from_u32);
        let semicolon = usize::from(digits[count..].starts_with(';'));
        return (character, before + count + semicolon);
    }
    let named = NAMES.iter().find(|(name, _)| inner.starts_with(name) && inner[name.len()..].starts_with(';'));
    named.map_or((None, 0), |(name, character)| (Some(*character), name.len() + 2))
}
