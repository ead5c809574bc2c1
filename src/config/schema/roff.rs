//! Writes the language of man pages, as much of it as is needed.

use std::fmt;

/// Plain text to be shown as roff. A line that begins with `# ` is a heading, one with `- ` is a
/// term with its explanation after ` : `, and an indented line is kept as it is.
pub struct Roff<'t>(pub &'t str);

impl fmt::Display for Roff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_literal = false;
        for line in self.0.lines() {
            let is_indented = line.starts_with("    ");
            if is_indented != is_literal {
                f.write_str(if is_indented { ".PP\n.nf\n" } else { ".fi\n" })?;
                is_literal = is_indented;
            }
            if let Some(heading) = line.strip_prefix("# ") {
                writeln!(f, ".SH {}", escaped(heading))?;
            } else if let Some((term, text)) = line
                .strip_prefix("- ")
                .and_then(|line| line.split_once(" : "))
            {
                writeln!(f, ".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(text))?;
            } else if line.is_empty() {
                f.write_str(".PP\n")?;
            } else {
                writeln!(f, "{}", escaped(line))?;
            }
        }
        if is_literal {
            f.write_str(".fi\n")?;
        }
        Ok(())
    }
}

/// roff would read a line that begins with a dot or a quote as a request.
pub fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_request_to_roff() {
        let text = Roff("# FILES\n- a-b : .x\n.y \\z\n    'literal\nend").to_string();
        let expected =
            ".SH FILES\n.TP\n\\fBa\\-b\\fR\n\\&.x\n\\&.y \\ez\n.PP\n.nf\n    'literal\n.fi\nend\n";
        assert_eq!(text, expected);
    }
}
