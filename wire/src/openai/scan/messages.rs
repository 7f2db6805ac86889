//! The conversation: messages, their parts, and which of their texts a model reads in one piece.

use super::lexer::Fault;
use super::unknown::Place;
use super::{Joint, Scanner, Span, TextRole, unescape};
use crate::openai::endpoint::row::Kind;
use crate::openai::endpoint::{MESSAGE, PART};

const CONTENT: &str = "a string or a list of content parts";

impl Scanner<'_> {
    /// A list of messages.
    pub(super) fn messages(&mut self) -> Result<(), Fault> {
        self.check(Kind::Messages)?;
        self.lexer.open()?;
        let mut before = None;
        let mut index = 0;
        while self.lexer.another(b']', index == 0)? {
            before = Some(self.message(index, before)?);
            index += 1;
        }
        Ok(())
    }

    /// One message; `before` is the role of the one before it. Returns its own.
    fn message(&mut self, index: u32, before: Option<TextRole>) -> Result<TextRole, Fault> {
        self.check(Kind::Object)?;
        self.items = index + 1;
        let (content_from, beside_from) = (self.content.len(), self.beside.len());
        let mut role = TextRole::Unknown;
        let mut seen = 0;
        self.lexer.open()?;
        let mut is_first = true;
        while self.lexer.another(b'}', is_first)? {
            is_first = false;
            let name = self.lexer.name()?;
            let member = self.member(name, MESSAGE, &mut seen, Place::Message(index))?;
            match member.map(|member| member.name) {
                Some("role") => role = self.role()?,
                Some("content") => self.parts_or_text(index)?,
                _ if self.lexer.eat_null()? => {}
                _ => {
                    let start = self.lexer.at();
                    self.whole(member.map(|member| member.name), TextRole::Unknown)?;
                    if let Some(member) = member {
                        self.refuse(member, start, Place::Message(index));
                    }
                }
            }
        }
        // The role may stand behind the texts.
        let texts = self.content[content_from..].iter_mut().chain(&mut self.beside[beside_from..]);
        for text in texts.filter(|text| text.role == TextRole::Unknown) {
            text.role = role;
        }
        if joins(before, role)
            && let Some(first) = self.content.get_mut(content_from)
        {
            first.joint = Joint::Continues;
        }
        Ok(role)
    }

    fn role(&mut self) -> Result<TextRole, Fault> {
        if self.lexer.eat_null()? {
            return Ok(TextRole::Unknown);
        }
        self.check(Kind::Text)?;
        let raw = self.lexer.string()?;
        Ok(match &*unescape(self.lexer.bytes(raw)) {
            "system" | "developer" => TextRole::System,
            "user" => TextRole::User,
            "assistant" => TextRole::Assistant,
            "tool" | "function" => TextRole::Tool,
            // Chat templates write a role as it is.
            _ => {
                self.beside(raw, TextRole::Unknown)?;
                TextRole::Unknown
            }
        })
    }

    fn parts_or_text(&mut self, message: u32) -> Result<(), Fault> {
        if self.lexer.eat_null()? {
            return Ok(());
        }
        match self.lexer.peek() {
            b'"' => {
                let raw = self.lexer.string()?;
                self.content(raw, TextRole::Unknown, Joint::Starts)
            }
            b'[' => self.parts(message),
            _ => self.wrong(CONTENT),
        }
    }

    fn parts(&mut self, message: u32) -> Result<(), Fault> {
        self.lexer.open()?;
        let content_from = self.content.len();
        let mut index = 0;
        while self.lexer.another(b']', index == 0)? {
            match self.lexer.peek() {
                b'"' => {
                    let raw = self.lexer.string()?;
                    self.part_text(raw, content_from)?;
                }
                b'{' => self.part(Place::Part(message, index), content_from)?,
                _ => return self.wrong("an object with a `type`"),
            }
            index += 1;
        }
        Ok(())
    }

    fn part(&mut self, place: Place, content_from: usize) -> Result<(), Fault> {
        self.lexer.open()?;
        let mut seen = 0;
        let mut is_first = true;
        while self.lexer.another(b'}', is_first)? {
            is_first = false;
            let name = self.lexer.name()?;
            let member = self.member(name, PART, &mut seen, place)?;
            if self.lexer.eat_null()? {
                continue;
            }
            if let Some(member) = member {
                self.check(member.kind)?;
            }
            match member.map(|member| member.name) {
                Some("text") => {
                    let raw = self.lexer.string()?;
                    self.part_text(raw, content_from)?;
                }
                name => self.whole(name, TextRole::Unknown)?,
            }
        }
        Ok(())
    }

    /// A part's text goes on from the part before it, whatever stands between.
    fn part_text(&mut self, raw: Span, content_from: usize) -> Result<(), Fault> {
        let joint = if self.content.len() > content_from { Joint::Continues } else { Joint::Starts };
        self.content(raw, TextRole::Unknown, joint)
    }
}

/// True if some chat template writes a message of `role` into one turn with the one before it: the same role twice
/// (Mistral), and the system's words with the user's (Gemma, Llama 2).
fn joins(before: Option<TextRole>, role: TextRole) -> bool {
    let is_of_a_user = |role| matches!(role, TextRole::System | TextRole::User);
    before.is_some_and(|before| before == role || (is_of_a_user(before) && is_of_a_user(role)))
}
