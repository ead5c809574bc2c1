//! What holds at one place of the file: the blocks around it, from `http` to the innermost.

use super::tree::Directive;

/// The blocks from the outermost to the one in question.
#[derive(Debug, Clone)]
pub struct Levels<'t>(Vec<&'t [Directive]>);

impl<'t> Levels<'t> {
    pub fn new(outermost: &'t [Directive]) -> Self {
        Self(vec![outermost])
    }

    pub fn within(&self, block: &'t [Directive]) -> Self {
        let mut levels = self.0.clone();
        levels.push(block);
        Self(levels)
    }

    /// The directives of the innermost block.
    pub fn own(&self) -> &'t [Directive] {
        self.0.last().copied().unwrap_or_default()
    }

    /// The innermost block's own directive: for those that nginx does not inherit.
    pub fn own_last(&self, name: &str) -> Option<&'t Directive> {
        self.own().iter().rfind(|directive| directive.name == name)
    }

    /// For directives of which several make a list: those of the innermost block that has any.
    pub fn list(&self, names: &[&str]) -> Vec<&'t Directive> {
        let of_block = |block: &&'t [Directive]| -> Vec<&'t Directive> {
            let of_names = |directive: &&'t Directive| names.contains(&directive.name.as_str());
            block.iter().filter(of_names).collect()
        };
        let mut lists = self.0.iter().rev().map(of_block);
        lists.find(|list| !list.is_empty()).unwrap_or_default()
    }

    /// For directives of which one holds.
    pub fn last(&self, name: &str) -> Option<&'t Directive> {
        self.list(&[name]).last().copied()
    }

    /// The value of a directive with one.
    pub fn value(&self, name: &str) -> Option<&'t str> {
        self.last(name).map(|directive| directive.arg(0))
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some("on")
    }

    /// The block of `location @name` in this one.
    pub fn named(&self, name: &str) -> Option<Self> {
        let mut locations = self.own().iter().filter(|inner| inner.name == "location");
        let found = locations.find(|location| location.arg(0) == name)?;
        Some(self.within(found.inner()))
    }

    /// Those that act on a request here: of `http`, of the server and of the innermost block, as no
    /// location inherits what another one does.
    pub fn acting(&self, name: &'static str) -> impl Iterator<Item = &'t Directive> + use<'t> {
        let last = self.0.len() - 1;
        let blocks = self.0.clone().into_iter().enumerate();
        let acting = blocks.filter(move |(number, _)| *number < 2 || *number == last);
        acting
            .flat_map(|(_, block)| block)
            .filter(move |directive| directive.name == name)
    }

    /// The directives of every block, the outermost first.
    pub fn all(&self) -> impl Iterator<Item = &'t Directive> + use<'t> {
        self.0.clone().into_iter().flatten()
    }

    /// The directives of these names in every block, the outermost first.
    pub fn every(&self, name: &'static str) -> impl Iterator<Item = &'t Directive> + use<'t> {
        let all = self.0.clone().into_iter().flatten();
        all.filter(move |directive| directive.name == name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    #[test]
    fn a_list_is_inherited_as_a_whole_or_not_at_all() {
        let file = Arc::from("f");
        let parse = |text| parse(&file, text).unwrap();
        let outer = parse("add_header A 1; add_header B 2; proxy_read_timeout 9s;");
        let inner = parse("add_header C 3;");
        let empty = parse("");
        let http = Levels::new(&outer);
        let names = |levels: &Levels<'_>| -> Vec<String> {
            let list = levels.list(&["add_header"]);
            list.iter().map(|header| header.arg(0).to_owned()).collect()
        };
        assert_eq!(names(&http.within(&empty)), ["A", "B"]);
        let server = http.within(&inner);
        assert_eq!(names(&server.within(&empty)), ["C"]);
        assert_eq!(server.value("proxy_read_timeout"), Some("9s"));
        assert!(server.own_last("proxy_read_timeout").is_none());
    }
}
