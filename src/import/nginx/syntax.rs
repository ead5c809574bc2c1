//! Reads the text of a file of nginx into directives, by the rules of nginx's own reader
//! (`ngx_conf_read_token`): blanks, `;`, `{` and `}` separate, quotes and backslashes protect,
//! `${` opens no block, and `#` begins a comment where a word could begin.
//!
//! Pure. Blocks of Lua (`…_by_lua_block`) are skipped by Lua's own rules.

use std::sync::Arc;

use super::error::ImportError;
use super::tree::{Directive, Place};

/// How deep blocks may stand in each other. nginx's own contexts need six.
const DEPTH: usize = 50;

pub fn parse(file: &Arc<str>, text: &str) -> Result<Vec<Directive>, ImportError> {
    let mut scanner = Scanner::new(file, text);
    // Blocks that are open: the directive whose block it is, and what stands before it.
    let mut open: Vec<(Directive, Vec<Directive>)> = Vec::new();
    let mut directives = Vec::new();
    let mut head: Option<Directive> = None;
    loop {
        let (token, place) = scanner.next()?;
        match (token, head.take()) {
            (Token::Word(word), None) => head = Some(directive(word, place)),
            (Token::Word(word), Some(mut begun)) => {
                begun.args.push(word);
                head = Some(begun);
            }
            (Token::Semicolon, Some(begun)) => directives.push(begun),
            (Token::Open, Some(mut begun)) if begun.name.ends_with("_by_lua_block") => {
                scanner.skip_lua(&place)?;
                begun.block = Some(Vec::new());
                directives.push(begun);
            }
            (Token::Open, Some(begun)) => {
                if open.len() == DEPTH {
                    return Err(ImportError::at(&place, "blocks are nested too deeply")
                        .hint(format!("at most {DEPTH} stand in each other")));
                }
                open.push((begun, std::mem::take(&mut directives)));
            }
            (Token::Close, None) => {
                let Some((mut begun, before)) = open.pop() else {
                    return Err(unexpected(&place, "}", "no block is open here"));
                };
                begun.block = Some(std::mem::replace(&mut directives, before));
                directives.push(begun);
            }
            (Token::End, None) => {
                let Some((begun, _)) = open.pop() else {
                    return Ok(directives);
                };
                let what = format!("the block of \"{}\" has no end", begun.name);
                return Err(ImportError::at(&begun.place, what).hint("close it with }"));
            }
            (token, begun) => return Err(misplaced(token, begun, &place)),
        }
    }
}

fn directive(name: String, place: Place) -> Directive {
    Directive {
        name,
        args: Vec::new(),
        block: None,
        place,
    }
}

fn misplaced(token: Token, begun: Option<Directive>, place: &Place) -> ImportError {
    match (token, begun) {
        (Token::Close | Token::End, Some(begun)) => {
            let what = format!("\"{}\" is not ended", begun.name);
            ImportError::at(&begun.place, what).hint("write ; behind it")
        }
        (Token::Open, _) => unexpected(place, "{", "a block has a name before it"),
        (_, _) => unexpected(place, ";", "it ends no directive: remove it"),
    }
}

fn unexpected(place: &Place, what: &str, hint: &str) -> ImportError {
    ImportError::at(place, format!("unexpected \"{what}\"")).hint(hint)
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Scanner<'a> {
    file: &'a Arc<str>,
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    col: usize,
}

impl<'a> Scanner<'a> {
    fn new(file: &'a Arc<str>, text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            file,
            rest: text.chars().peekable(),
            line: 1,
            col: 1,
        }
    }

    fn place(&self) -> Place {
        Place {
            file: self.file.clone(),
            line: self.line,
            col: self.col,
        }
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.rest.next()?;
        match letter {
            '\n' => (self.line, self.col) = (self.line + 1, 1),
            _ => self.col += 1,
        }
        Some(letter)
    }

    fn next(&mut self) -> Result<(Token, Place), ImportError> {
        while let Some(letter) = self.rest.peek() {
            match letter {
                ' ' | '\t' | '\r' | '\n' => drop(self.take()),
                '#' => while self.take().is_some_and(|letter| letter != '\n') {},
                _ => break,
            }
        }
        let place = self.place();
        let token = match self.rest.peek() {
            None => return Ok((Token::End, place)),
            Some(';') => Token::Semicolon,
            Some('{') => Token::Open,
            Some('}') => Token::Close,
            Some(quote @ ('"' | '\'')) => {
                let quote = *quote;
                return Ok((Token::Word(self.quoted(quote, &place)?), place));
            }
            Some(_) => return Ok((Token::Word(self.bare(&place)?), place)),
        };
        self.take();
        Ok((token, place))
    }

    fn bare(&mut self, place: &Place) -> Result<String, ImportError> {
        let mut word = String::new();
        while let Some(&letter) = self.rest.peek() {
            let opens_a_block = letter == '{' && !word.ends_with('$');
            if matches!(letter, ' ' | '\t' | '\r' | '\n' | ';') || opens_a_block {
                break;
            }
            word.extend(self.take());
            if letter == '\\' {
                word.extend(self.take());
            }
        }
        plain(&word, place)
    }

    fn quoted(&mut self, quote: char, place: &Place) -> Result<String, ImportError> {
        self.take();
        let mut word = String::new();
        loop {
            match self.take() {
                None => {
                    let error = ImportError::at(place, "a quoted word has no end");
                    return Err(error.hint(format!("close it with {quote}")));
                }
                Some(letter) if letter == quote => break,
                Some('\\') => {
                    word.push('\\');
                    word.extend(self.take());
                }
                Some(letter) => word.push(letter),
            }
        }
        match self.rest.peek() {
            Some(' ' | '\t' | '\r' | '\n' | ';' | '{' | ')') | None => plain(&word, place),
            Some(letter) => {
                let letter = letter.to_string();
                Err(unexpected(
                    &self.place(),
                    &letter,
                    "a blank or ; follows a quoted word",
                ))
            }
        }
    }

    /// Behind the opening brace, to behind the one that closes it.
    fn skip_lua(&mut self, open: &Place) -> Result<(), ImportError> {
        let mut depth = 1;
        while let Some(letter) = self.take() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 1 => return Ok(()),
                '}' => depth -= 1,
                '"' | '\'' => self.skip_lua_string(letter),
                '[' => {
                    self.skip_lua_brackets();
                }
                '-' if self.rest.peek() == Some(&'-') => {
                    self.take();
                    let is_long = self.rest.peek() == Some(&'[') && {
                        self.take();
                        self.skip_lua_brackets()
                    };
                    while !is_long && self.rest.peek().is_some_and(|letter| *letter != '\n') {
                        self.take();
                    }
                }
                _ => {}
            }
        }
        Err(ImportError::at(open, "this block of Lua has no end").hint("close it with }"))
    }

    fn skip_lua_string(&mut self, quote: char) {
        while let Some(letter) = self.take() {
            match letter {
                '\\' => drop(self.take()),
                letter if letter == quote || letter == '\n' => return,
                _ => {}
            }
        }
    }

    /// Behind a `[`: skips `[[ … ]]` and `[==[ … ]==]`; returns whether it was one.
    fn skip_lua_brackets(&mut self) -> bool {
        let level = self
            .rest
            .clone()
            .take_while(|letter| *letter == '=')
            .count();
        if self.rest.clone().nth(level) != Some('[') {
            return false;
        }
        for _ in 0..=level {
            self.take();
        }
        let end: String = ["]", &"=".repeat(level), "]"].concat();
        let mut seen = String::new();
        while let Some(letter) = self.take() {
            seen.push(letter);
            if seen.ends_with(&end) {
                break;
            }
            if letter != ']' && letter != '=' {
                seen.clear();
            }
        }
        true
    }
}

/// Takes the backslashes away that nginx takes away: others are the regular expressions'.
fn plain(word: &str, place: &Place) -> Result<String, ImportError> {
    if word.contains('\u{fffd}') {
        return Err(
            ImportError::at(place, "this word has a byte that is not UTF-8")
                .hint("save the file as UTF-8: iconv -f latin1 -t utf-8 FILE"),
        );
    }
    let mut plain = String::with_capacity(word.len());
    let mut letters = word.chars().peekable();
    while let Some(letter) = letters.next() {
        let meant = match (letter, letters.peek()) {
            ('\\', Some('"' | '\'' | '\\')) => letters.peek().copied(),
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('n')) => Some('\n'),
            _ => None,
        };
        match meant {
            Some(meant) => {
                letters.next();
                plain.push(meant);
            }
            None => plain.push(letter),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
