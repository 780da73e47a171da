//! A Rust file as the rules see it: its code without comments and string contents, its strings, its functions, its tests.
//!
//! Invariant: line numbers are those of the file. It is not a parser: it knows just enough of Rust's tokens not to take text for code.

/// One file.
pub struct Source {
    pub path: String,
    pub text: String,
    /// The text with comments and the contents of strings replaced by spaces.
    pub code: String,
    /// String literals with the line on which they begin.
    pub strings: Vec<(usize, String)>,
    /// The first line of the tests at the file's end; one past the last line where there are none.
    pub tests_from: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub first_line: usize,
    pub last_line: usize,
    pub is_test: bool,
    /// Of `code`.
    pub body: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let (code, strings) = strip(text);
        let lines: Vec<&str> = code.lines().collect();
        let tests = (0..lines.len()).find(|&i| {
            lines[i].trim() == "#[cfg(test)]" && lines[i + 1..].iter().find(|l| !l.trim().is_empty()).is_some_and(|l| is_inline_module(l))
        });
        let whole_file = path.ends_with("/tests.rs") || path.contains("/tests/");
        let tests_from = if whole_file { 1 } else { tests.map_or(lines.len() + 1, |i| i + 1) };
        Self { path: path.into(), text: text.into(), code, strings, tests_from }
    }

    /// Lines of code before the tests, numbered from one.
    pub fn code_before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(i, line)| (i + 1, line)).take_while(|(line, _)| *line < self.tests_from)
    }

    pub fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        let bytes = self.code.as_bytes();
        for (at, _) in self.code.match_indices("fn ") {
            let starts_word = at == 0 || !is_word(bytes[at - 1]);
            let name: String = self.code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // `fn(u8)` is a type, and has no name.
            if !starts_word || name.is_empty() {
                continue;
            }
            if let Some((open, close)) = body(bytes, at) {
                functions.push(Function {
                    name,
                    first_line: line_of(bytes, at),
                    last_line: line_of(bytes, close),
                    is_test: attributes_before(&self.code[..at]).contains("test]") || attributes_before(&self.code[..at]).contains("test("),
                    body: self.code[open..=close].to_owned(),
                });
            }
        }
        functions
    }
}

fn is_inline_module(line: &str) -> bool {
    line.trim().starts_with("mod ") && line.trim().ends_with('{')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// First and last byte of the body of the function that begins at `at`; `None` for a declaration.
fn body(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut depth = 0i32;
    let open = (at..bytes.len()).find(|&i| {
        match bytes[i] {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(bytes[i], b'{' | b';')
    })?;
    if bytes[open] == b';' {
        return None;
    }
    let mut braces = 0i32;
    let close = (open..bytes.len()).find(|&i| {
        braces += i32::from(bytes[i] == b'{') - i32::from(bytes[i] == b'}');
        braces == 0
    })?;
    Some((open, close))
}

/// The attributes and qualifiers between the previous item and a function.
fn attributes_before(code: &str) -> &str {
    let from = code.rfind(['{', '}', ';']).map_or(0, |i| i + 1);
    &code[from..]
}

/// Replaces comments and string contents by spaces; gives the strings.
fn strip(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let (mut code, mut strings) = (Vec::with_capacity(bytes.len()), Vec::new());
    let mut i = 0;
    while i < bytes.len() {
        let end = match token(bytes, i) {
            Token::Code => {
                code.push(bytes[i]);
                i += 1;
                continue;
            }
            Token::Comment(end) => end,
            Token::Text(open, close, end) => {
                strings.push((line_of(bytes, i), text[open..close].to_owned()));
                end
            }
        };
        code.extend(bytes[i..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
        i = end;
    }
    (String::from_utf8(code).expect("whole tokens were replaced by ASCII"), strings)
}

enum Token {
    Code,
    /// Where it ends.
    Comment(usize),
    /// First byte of the content, one past its last, one past the literal.
    Text(usize, usize, usize),
}

fn token(bytes: &[u8], i: usize) -> Token {
    let rest = &bytes[i..];
    let to_end_of = |needle: &[u8], from: usize| {
        bytes[from..].windows(needle.len()).position(|w| w == needle).map_or(bytes.len(), |at| from + at + needle.len())
    };
    if rest.starts_with(b"//") {
        return Token::Comment(rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| i + at));
    }
    if rest.starts_with(b"/*") {
        return Token::Comment(to_end_of(b"*/", i + 2));
    }
    let inside_word = i > 0 && is_word(bytes[i - 1]);
    let prefix = rest.iter().take_while(|b| matches!(b, b'b' | b'c' | b'r')).count();
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let quote = i + prefix + hashes;
    let raw = prefix > 0 && bytes[i + prefix - 1] == b'r';
    if bytes.get(quote) == Some(&b'"') && (prefix == 0 || !inside_word) && (hashes == 0 || raw) && (prefix > 0 || hashes == 0) {
        let open = quote + 1;
        if raw {
            let needle: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let end = to_end_of(&needle, open);
            return Token::Text(open, end.saturating_sub(needle.len()).max(open), end);
        }
        let mut at = open;
        while at < bytes.len() && bytes[at] != b'"' {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        let close = at.min(bytes.len());
        return Token::Text(open, close, (close + 1).min(bytes.len()));
    }
    if rest[0] == b'\'' {
        return character(bytes, i);
    }
    Token::Code
}

/// `'x'`, `'\n'`, `'é'` are literals; `'a` before a name is a lifetime.
fn character(bytes: &[u8], i: usize) -> Token {
    if bytes.get(i + 1) == Some(&b'\\') {
        let end = (i + 3..bytes.len()).find(|&k| bytes[k] == b'\'').map_or(bytes.len(), |k| k + 1);
        return Token::Comment(end);
    }
    let width = match bytes.get(i + 1) {
        Some(b) if *b < 0x80 => 1,
        Some(b) if *b >= 0xf0 => 4,
        Some(b) if *b >= 0xe0 => 3,
        Some(_) => 2,
        None => return Token::Code,
    };
    if bytes.get(i + 1 + width) == Some(&b'\'') { Token::Comment(i + width + 2) } else { Token::Code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_not_taken_for_code() {
        let source = Source::new(
            "a/src/x.rs",
            "// fn not() {\nfn f<'a>(x: &'a str) -> char { /* } */ let s = \"} \\\" {\"; let r = r#\"\" {\"#; '}' }\nfn g(); // é\nfn h() {\n}\n",
        );
        let functions = source.functions();
        let seen: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.first_line, f.last_line)).collect();
        assert_eq!(seen, [("f", 2, 2), ("h", 4, 5)]);
        assert_eq!(source.strings, [(2, "} \\\" {".to_owned()), (2, "\" {".to_owned())]);
    }

    #[test]
    fn tests_are_known_by_their_attribute() {
        let text = "fn a() {}\n#[cfg(test)]\nmod scratch;\n#[cfg(test)]\nmod tests {\n#[test]\nfn b() {}\n#[tokio::test]\nasync fn c() {}\nfn d() {}\n}\n";
        let source = Source::new("a/src/x.rs", text);
        assert_eq!(source.tests_from, 4);
        let tests: Vec<_> = source.functions().into_iter().filter(|f| f.is_test).map(|f| f.name).collect();
        assert_eq!(tests, ["b", "c"]);
        assert_eq!(Source::new("a/tests/x.rs", text).tests_from, 1);
    }
}
