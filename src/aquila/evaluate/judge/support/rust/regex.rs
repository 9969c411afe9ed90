//! What samples use of the crate regex: a matcher that backtracks, for patterns without look-around or Unicode classes.
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

#[derive(Clone, Debug)]
enum Node {
    Set(Vec<(char, char)>, bool),
    Start,
    End,
    Edge(bool),
    Group(Box<Node>, Option<usize>),
    Row(Vec<Node>),
    Either(Vec<Node>),
    Many(Box<Node>, usize, usize, bool),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl std::error::Error for Error {}

#[derive(Clone, Debug)]
pub struct Regex {
    root: Node,
    groups: usize,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match<'t> {
    text: &'t str,
    start: usize,
    end: usize,
}

impl<'t> Match<'t> {
    pub fn start(&self) -> usize {
        self.start
    }
    pub fn end(&self) -> usize {
        self.end
    }
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
    pub fn as_str(&self) -> &'t str {
        &self.text[self.start..self.end]
    }
}

pub struct Captures<'t> {
    text: &'t str,
    places: Places,
}

impl<'t> Captures<'t> {
    pub fn get(&self, number: usize) -> Option<Match<'t>> {
        let (start, end) = (*self.places.get(number)?)?;
        Some(Match { text: self.text, start, end })
    }
    pub fn len(&self) -> usize {
        self.places.len()
    }
}

impl std::ops::Index<usize> for Captures<'_> {
    type Output = str;
    fn index(&self, number: usize) -> &str {
        let (start, end) = self.places[number].expect("the group took part");
        &self.text[start..end]
    }
}

type Places = Vec<Option<(usize, usize)>>;

impl Regex {
    pub fn new(pattern: &str) -> Result<Regex, Error> {
        let mut parser = Parser { letters: pattern.chars().collect(), place: 0, groups: 0, any_case: false };
        let root = parser.either()?;
        if parser.place < parser.letters.len() {
            return Err(Error(format!("unopened group in {pattern}")));
        }
        Ok(Regex { root, groups: parser.groups, text: pattern.to_string() })
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    pub fn is_match(&self, text: &str) -> bool {
        self.find(text).is_some()
    }
    pub fn find<'t>(&self, text: &'t str) -> Option<Match<'t>> {
        self.find_iter(text).next()
    }
    pub fn find_iter<'t>(&self, text: &'t str) -> std::vec::IntoIter<Match<'t>> {
        let found: Vec<Match<'t>> = self.captures_iter(text).filter_map(|each| each.get(0)).collect();
        found.into_iter()
    }
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        self.captures_iter(text).next()
    }
    pub fn captures_iter<'t>(&self, text: &'t str) -> std::vec::IntoIter<Captures<'t>> {
        let mut found = Vec::new();
        let (mut start, mut last) = (0, None);
        while start <= text.len() {
            let Some(places) = self.match_from(text, start) else { break };
            let (first, end) = places[0].expect("the whole always takes part");
            let step = text[end..].chars().next().map_or(1, char::len_utf8);
            start = if end == first { end + step } else { end };
            if end == first && last == Some(end) {
                continue;
            }
            last = Some(end);
            found.push(Captures { text, places });
        }
        found.into_iter()
    }
    pub fn split<'t>(&self, text: &'t str) -> std::vec::IntoIter<&'t str> {
        let (mut parts, mut start) = (Vec::new(), 0);
        for found in self.find_iter(text) {
            parts.push(&text[start..found.start]);
            start = found.end;
        }
        parts.push(&text[start..]);
        parts.into_iter()
    }
    pub fn replace_all<'t>(&self, text: &'t str, with: &str) -> Cow<'t, str> {
        self.replacen(text, 0, with)
    }
    pub fn replace<'t>(&self, text: &'t str, with: &str) -> Cow<'t, str> {
        self.replacen(text, 1, with)
    }
    pub fn replacen<'t>(&self, text: &'t str, limit: usize, with: &str) -> Cow<'t, str> {
        let (mut done, mut start) = (String::new(), 0);
        for (count, found) in self.find_iter(text).enumerate() {
            if limit > 0 && count == limit {
                break;
            }
            done.push_str(&text[start..found.start]);
            done.push_str(with);
            start = found.end;
        }
        done.push_str(&text[start..]);
        Cow::Owned(done)
    }

    fn match_from(&self, text: &str, from: usize) -> Option<Places> {
        for (place, _) in text[from..].char_indices().chain([(text.len() - from, ' ')]) {
            let start = from + place;
            let mut places: Places = vec![None; self.groups + 1];
            let mut end = None;
            if walk(&self.root, text, start, &mut places, &mut |at, _| {
                end = Some(at);
                true
            }) {
                places[0] = Some((start, end?));
                return Some(places);
            }
        }
        None
    }
}

/// Whether `node` matches at `at` so that `then` accepts where it ends.
fn walk(node: &Node, text: &str, at: usize, places: &mut Places, then: &mut dyn FnMut(usize, &mut Places) -> bool) -> bool {
    match node {
        Node::Set(ranges, inverted) => match text[at..].chars().next() {
            Some(letter) if ranges.iter().any(|&(low, high)| low <= letter && letter <= high) != *inverted => {
                then(at + letter.len_utf8(), places)
            }
            _ => false,
        },
        Node::Start => at == 0 && then(at, places),
        Node::End => at == text.len() && then(at, places),
        Node::Edge(wanted) => {
            let before = text[..at].chars().next_back().is_some_and(is_word);
            let after = text[at..].chars().next().is_some_and(is_word);
            (before != after) == *wanted && then(at, places)
        }
        Node::Group(inner, None) => walk(inner, text, at, places, then),
        Node::Group(inner, Some(number)) => {
            let before = places[*number];
            if walk(inner, text, at, places, &mut |end, places| {
                let kept = places[*number];
                places[*number] = Some((at, end));
                then(end, places) || {
                    places[*number] = kept;
                    false
                }
            }) {
                return true;
            }
            places[*number] = before;
            false
        }
        Node::Row(nodes) => row(nodes, text, at, places, then),
        Node::Either(nodes) => nodes.iter().any(|each| walk(each, text, at, places, then)),
        Node::Many(inner, least, most, greedy) => many(inner, (*least, *most, *greedy), text, at, places, then),
    }
}

fn row(nodes: &[Node], text: &str, at: usize, places: &mut Places, then: &mut dyn FnMut(usize, &mut Places) -> bool) -> bool {
    match nodes.split_first() {
        None => then(at, places),
        Some((first, rest)) => walk(first, text, at, places, &mut |end, places| row(rest, text, end, places, then)),
    }
}

fn many(
    inner: &Node,
    (least, most, greedy): (usize, usize, bool),
    text: &str,
    at: usize,
    places: &mut Places,
    then: &mut dyn FnMut(usize, &mut Places) -> bool,
) -> bool {
    if least == 0 && !greedy && then(at, places) {
        return true;
    }
    if most > 0
        && walk(inner, text, at, places, &mut |end, places| {
            let left = (least.saturating_sub(1), if most == usize::MAX { most } else { most - 1 }, greedy);
            (end > at || least > 0) && many(inner, left, text, end, places, then)
        })
    {
        return true;
    }
    least == 0 && greedy && then(at, places)
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

struct Parser {
    letters: Vec<char>,
    place: usize,
    groups: usize,
    any_case: bool,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.letters.get(self.place).copied()
    }
    fn take(&mut self) -> Option<char> {
        let letter = self.peek();
        self.place += letter.is_some() as usize;
        letter
    }
    fn took(&mut self, wanted: &str) -> bool {
        let found = wanted.chars().enumerate().all(|(place, letter)| self.letters.get(self.place + place) == Some(&letter));
        self.place += if found { wanted.chars().count() } else { 0 };
        found
    }
    fn either(&mut self) -> Result<Node, Error> {
        let mut branches = vec![self.row()?];
        while self.took("|") {
            branches.push(self.row()?);
        }
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Either(branches) })
    }
    fn row(&mut self) -> Result<Node, Error> {
        let mut nodes = Vec::new();
        while self.peek().is_some_and(|letter| letter != '|' && letter != ')') {
            if self.took("(?i)") {
                self.any_case = true;
                continue;
            }
            let node = self.one()?;
            nodes.push(self.repeated(node)?);
        }
        Ok(Node::Row(nodes))
    }
    fn repeated(&mut self, node: Node) -> Result<Node, Error> {
        let (least, most) = match self.peek() {
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('?') => (0, 1),
            Some('{') => {
                let end = self.letters[self.place..].iter().position(|&letter| letter == '}');
                let end = self.place + end.ok_or_else(|| Error("unclosed counted repetition".to_string()))?;
                let inside: String = self.letters[self.place + 1..end].iter().collect();
                self.place = end;
                let (low, high) = inside.split_once(',').unwrap_or((&inside, &inside));
                let number = |text: &str| text.trim().parse().map_err(|_| Error(format!("bad repetition {{{inside}}}")));
                (number(low)?, if high.trim().is_empty() { usize::MAX } else { number(high)? })
            }
            _ => return Ok(node),
        };
        self.place += 1;
        let greedy = !self.took("?");
        self.repeated(Node::Many(Box::new(node), least, most, greedy))
    }
    fn one(&mut self) -> Result<Node, Error> {
        match self.take() {
            Some('(') => {
                let number = if self.took("?:") {
                    None
                } else if self.peek() == Some('?') {
                    return Err(Error("look-around and flags of groups are not supported".to_string()));
                } else {
                    self.groups += 1;
                    Some(self.groups)
                };
                let inner = self.either()?;
                if !self.took(")") {
                    return Err(Error("unclosed group".to_string()));
                }
                Ok(Node::Group(Box::new(inner), number))
            }
            Some('[') => self.class(),
            Some('.') => Ok(Node::Set(vec![('\n', '\n')], true)),
            Some('^') => Ok(Node::Start),
            Some('$') => Ok(Node::End),
            Some('\\') => match self.take() {
                Some('b') => Ok(Node::Edge(true)),
                Some('B') => Ok(Node::Edge(false)),
                Some(letter) => Ok(match escape(letter) {
                    Some((ranges, inverted)) => Node::Set(ranges, inverted),
                    None => Node::Set(vec![(plain(letter), plain(letter))], false),
                }),
                None => Err(Error("incomplete escape sequence".to_string())),
            },
            Some(letter @ ('*' | '+' | '?')) => Err(Error(format!("repetition operator {letter} without expression"))),
            Some(letter) => Ok(Node::Set(self.cases(letter), false)),
            None => Err(Error("pattern ends too early".to_string())),
        }
    }
    fn cases(&self, letter: char) -> Vec<(char, char)> {
        let mut found = vec![(letter, letter)];
        if self.any_case {
            found.extend(letter.to_lowercase().chain(letter.to_uppercase()).map(|each| (each, each)));
        }
        found
    }
    fn class(&mut self) -> Result<Node, Error> {
        let inverted = self.took("^");
        let (mut ranges, mut first) = (Vec::new(), true);
        loop {
            let letter = self.take().ok_or_else(|| Error("unclosed character class".to_string()))?;
            if letter == ']' && !first {
                return Ok(Node::Set(ranges, inverted));
            }
            first = false;
            let mut low = letter;
            if letter == '\\' {
                let escaped = self.take().ok_or_else(|| Error("incomplete escape sequence".to_string()))?;
                match escape(escaped) {
                    Some((found, false)) => {
                        ranges.extend(found);
                        continue;
                    }
                    Some(_) => return Err(Error("negated classes inside a class are not supported".to_string())),
                    None => low = plain(escaped),
                }
            }
            if self.peek() == Some('-') && self.letters.get(self.place + 1).is_some_and(|&next| next != ']') {
                self.place += 1;
                let mut high = self.take().expect("there is one more");
                if high == '\\' {
                    high = plain(self.take().ok_or_else(|| Error("incomplete escape sequence".to_string()))?);
                }
                if high < low {
                    return Err(Error(format!("invalid range {low}-{high}")));
                }
                ranges.push((low, high));
            } else {
                ranges.extend(self.cases(low));
            }
        }
    }
}

fn escape(letter: char) -> Option<(Vec<(char, char)>, bool)> {
    let ranges = match letter.to_ascii_lowercase() {
        'd' => vec![('0', '9')],
        's' => vec![('\t', '\r'), (' ', ' '), ('\u{85}', '\u{85}'), ('\u{a0}', '\u{a0}')],
        'w' => vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')],
        _ => return None,
    };
    Some((ranges, letter.is_ascii_uppercase()))
}

fn plain(letter: char) -> char {
    match letter {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        other => other,
    }
}
