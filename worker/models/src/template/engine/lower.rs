//! A template's text, lowered: parsed as Jinja2, and written again so that every operator is a call of ours.
//!
//! The library's parser knows Jinja2's grammar and its rules of white space. What it parsed is printed as a template
//! of the library's own, in which nothing is left whose meaning differs from Python's: operators, subscripts and
//! attributes are calls, literals and text are constants of the environment. A part of Jinja2 that is missing is named
//! here, before any conversation meets it. Lines keep their numbers, for messages.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, parse};
use minijinja::syntax::SyntaxConfig;

use super::operators::PREFIX;
use super::{filters, methods};

/// The longest template. Published ones have up to some fifty thousand bytes.
const BYTES_MAX: usize = 1 << 20;

/// The most branches, which the library's parser and compiler walk one within the other.
const BRANCHES_MAX: usize = 500;

/// The most words and signs in one tag. Published templates have up to some 2,400 (a table of languages).
pub(super) const TOKENS_MAX: usize = 4000;

/// A lowered template.
pub(super) struct Lowered {
    /// The library's template.
    pub(super) source: String,
    /// Its constants, by name.
    pub(super) constants: Vec<(String, Value)>,
}

/// Lowers a template.
///
/// # Errors
/// The text is no template, or it uses something that is missing here.
pub(super) fn lower(source: &str) -> Result<Lowered, String> {
    if source.len() > BYTES_MAX {
        return Err(format!("it has {} bytes; at most {BYTES_MAX} are read", source.len()));
    }
    if let Some(run) = source.split("elif").count().checked_sub(1).filter(|run| *run > BRANCHES_MAX) {
        return Err(format!("it has {run} `elif`; at most {BRANCHES_MAX} are read"));
    }
    let source = in_library_tags(&source.replace("\r\n", "\n").replace('\r', "\n"))?;
    // transformers trims around blocks and, Jinja2's default, drops one line feed at the template's very end.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false).build();
    let syntax = syntax.map_err(|error| error.to_string())?;
    let parsed = parse(&source, super::NAME, syntax).map_err(|error| super::describe(&error))?;
    let mut printer = Printer { out: String::with_capacity(source.len() * 2), line: 1, constants: Vec::new() };
    printer.statement(&parsed)?;
    Ok(Lowered { source: printer.out, constants: printer.constants })
}

/// A template in the library's dialect of tags.
///
/// `{% generation %}` and its end, with which transformers marks the assistant's words for training, become a scope of
/// their own: the same white space is trimmed and the same text comes out. The line feed behind `{% raw %}`, which the
/// library trims and Jinja2 does not, is doubled. `\U0001F642` in a tag becomes a pair of surrogates, which it reads.
fn in_library_tags(source: &str) -> Result<String, String> {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find(['{']) {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let close = match tag.as_bytes().get(1) {
            Some(b'%') => "%}",
            Some(b'{') => "}}",
            Some(b'#') => "#}",
            _ => {
                text.push('{');
                rest = &tag[1..];
                continue;
            }
        };
        let Some(end) = tag[2..].find(close).map(|end| end + 2) else {
            rest = tag;
            break;
        };
        rest = &tag[end + 2..];
        if close != "#}" && tokens(&tag[2..end]) > TOKENS_MAX {
            return Err(format!("a tag has more than {TOKENS_MAX} words and signs"));
        }
        if close == "%}" {
            rest = block_tag(&mut text, &tag[2..end], rest);
        } else {
            push_with_surrogates(&mut text, &tag[..end + 2]);
        }
    }
    text.push_str(rest);
    Ok(text)
}

/// Words and signs outside of quotes, at least.
fn tokens(tag: &str) -> usize {
    let (mut count, mut quote, mut in_word, mut escaped) = (0, None, false, false);
    for character in tag.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None => {
                let is_word = character.is_alphanumeric() || character == '_';
                let goes_on = is_word && in_word;
                count += usize::from(!character.is_whitespace() && !goes_on);
                in_word = is_word;
                quote = (character == '\'' || character == '"').then_some(character);
            }
        }
    }
    count
}

/// Writes one `{% … %}`, and all of a raw block; returns what follows.
fn block_tag<'a>(text: &mut String, inner: &str, after: &'a str) -> &'a str {
    let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
    text.push_str("{%");
    match word {
        "generation" => text.push_str(&inner.replacen(word, "with", 1)),
        "endgeneration" => text.push_str(&inner.replacen(word, "endwith", 1)),
        _ => push_with_surrogates(text, inner),
    }
    text.push_str("%}");
    if word != "raw" {
        return after;
    }
    text.push_str(if after.starts_with('\n') && !inner.ends_with('-') { "\n" } else { "" });
    let close = after.match_indices("{%").find(|(at, _)| is_end_of_raw(&after[at + 2..]));
    let (raw, behind) = after.split_at(close.map_or(after.len(), |(at, _)| at));
    text.push_str(raw);
    behind
}

fn push_with_surrogates(text: &mut String, tag: &str) {
    let mut parts = tag.split("\\U");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let code = part.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        match code {
            Some(code) => {
                let mut units = [0; 2];
                code.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
                text.push_str(&part[8..]);
            }
            None => {
                text.push_str("\\U");
                text.push_str(part);
            }
        }
    }
}

fn is_end_of_raw(inner: &str) -> bool {
    inner.trim_start_matches(|c: char| c.is_whitespace() || c == '-' || c == '+').starts_with("endraw")
}

type Lowering = Result<(), String>;

struct Printer {
    out: String,
    /// The line that is being written.
    line: u16,
    constants: Vec<(String, Value)>,
}

/// Something that is missing here.
fn missing(what: &str, span: Span) -> String {
    format!("{what} is not supported (line {})", span.start_line)
}

/// A name that a template may give.
fn name(name: &str, span: Span) -> Result<&str, String> {
    if name.starts_with(PREFIX) { Err(missing(&format!("the name `{name}`"), span)) } else { Ok(name) }
}

impl Printer {
    /// Goes to the line of something, within a tag.
    fn go(&mut self, span: Span) {
        while self.line < span.start_line {
            self.out.push('\n');
            self.line += 1;
        }
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Writes the name of a constant.
    fn constant(&mut self, value: Value) {
        let name = format!("{PREFIX}c{}", self.constants.len());
        self.out.push_str(&name);
        self.constants.push((name, value));
    }

    fn body(&mut self, statements: &[Stmt<'_>]) -> Lowering {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    /// `{% end… %}`.
    fn end(&mut self, tag: &str) {
        let _ = write!(self.out, "{{% {tag} %}}");
    }

    fn statement(&mut self, statement: &Stmt<'_>) -> Lowering {
        match statement {
            Stmt::Template(it) => self.body(&it.children),
            Stmt::EmitRaw(it) => {
                self.push("{{");
                self.go(it.span());
                self.constant(Value::from(it.raw));
                self.push("}}");
                Ok(())
            }
            Stmt::EmitExpr(it) => {
                self.push("{{");
                self.go(it.span());
                self.expression(&it.expr)?;
                self.push("}}");
                Ok(())
            }
            Stmt::ForLoop(it) => self.for_loop(it, it.span()),
            Stmt::IfCond(it) => self.branches(it, it.span()),
            Stmt::WithBlock(it) => self.with(it, it.span()),
            Stmt::Set(it) => self.set(it, it.span()),
            Stmt::SetBlock(it) => self.set_block(it, it.span()),
            Stmt::FilterBlock(it) => {
                self.push("{% filter ");
                self.go(it.span());
                self.expression(&it.filter)?;
                self.push("%}");
                self.body(&it.body)?;
                self.end("endfilter");
                Ok(())
            }
            Stmt::Macro(it) => self.macro_of(it, it.span()),
            Stmt::CallBlock(it) => self.call_block(it, it.span()),
            Stmt::Continue(_) => {
                self.end("continue");
                Ok(())
            }
            Stmt::Break(_) => {
                self.end("break");
                Ok(())
            }
            Stmt::Block(it) => self.body(&it.body),
            Stmt::AutoEscape(it) => Err(missing("`{% autoescape %}`", it.span())),
            Stmt::Import(it) => Err(missing("`{% import %}`", it.span())),
            Stmt::FromImport(it) => Err(missing("`{% from … import %}`", it.span())),
            Stmt::Extends(it) => Err(missing("`{% extends %}`", it.span())),
            Stmt::Include(it) => Err(missing("`{% include %}`", it.span())),
            Stmt::Do(it) => Err(missing("`{% do %}`", it.span())),
        }
    }

    fn for_loop(&mut self, it: &ast::ForLoop<'_>, span: Span) -> Lowering {
        self.push("{% for ");
        self.go(span);
        self.target(&it.target)?;
        self.push(" in ");
        self.call("iter", &[&it.iter])?;
        if let Some(filter) = &it.filter_expr {
            self.push(" if ");
            self.expression(filter)?;
        }
        self.push(if it.recursive { " recursive %}" } else { " %}" });
        self.body(&it.body)?;
        if !it.else_body.is_empty() {
            self.end("else");
            self.body(&it.else_body)?;
        }
        self.end("endfor");
        Ok(())
    }

    fn branches(&mut self, it: &ast::IfCond<'_>, span: Span) -> Lowering {
        let (mut it, mut span, mut word) = (it, span, "{% if ");
        loop {
            self.push(word);
            self.go(span);
            self.expression(&it.expr)?;
            self.push(" %}");
            self.body(&it.true_body)?;
            // A chain stays a chain.
            match it.false_body.as_slice() {
                [Stmt::IfCond(next)] => (it, span, word) = (next, next.span(), "{% elif "),
                [] => break,
                others => {
                    self.end("else");
                    self.body(others)?;
                    break;
                }
            }
        }
        self.end("endif");
        Ok(())
    }

    fn with(&mut self, it: &ast::WithBlock<'_>, span: Span) -> Lowering {
        self.push("{% with ");
        self.go(span);
        for (place, (target, value)) in it.assignments.iter().enumerate() {
            self.push(if place > 0 { ", " } else { "" });
            self.target(target)?;
            self.push("=");
            self.expression(value)?;
        }
        self.push(" %}");
        self.body(&it.body)?;
        self.end("endwith");
        Ok(())
    }

    fn set(&mut self, it: &ast::Set<'_>, span: Span) -> Lowering {
        if let Expr::GetAttr(target) = &it.target {
            self.push("{% do ");
            self.go(span);
            self.assign(target, |printer| printer.expression(&it.expr))?;
            self.push(" %}");
            return Ok(());
        }
        self.push("{% set ");
        self.go(span);
        self.target(&it.target)?;
        self.push("=");
        self.expression(&it.expr)?;
        self.push(" %}");
        Ok(())
    }

    /// A call that sets a namespace's attribute.
    fn assign(&mut self, target: &ast::GetAttr<'_>, value: impl FnOnce(&mut Self) -> Lowering) -> Lowering {
        let _ = write!(self.out, "{PREFIX}assign(");
        self.expression(&target.expr)?;
        self.push(",");
        self.constant(Value::from(target.name));
        self.push(",");
        value(self)?;
        self.push(")");
        Ok(())
    }

    fn set_block(&mut self, it: &ast::SetBlock<'_>, span: Span) -> Lowering {
        let attribute = if let Expr::GetAttr(target) = &it.target { Some(target) } else { None };
        self.push("{% set ");
        self.go(span);
        match attribute {
            Some(_) => {
                let _ = write!(self.out, "{PREFIX}block");
            }
            None => self.target(&it.target)?,
        }
        if let Some(filter) = &it.filter {
            self.push(" | ");
            self.expression(filter)?;
        }
        self.push(" %}");
        self.body(&it.body)?;
        self.end("endset");
        if let Some(target) = attribute {
            self.push("{% do ");
            self.assign(target, |printer| {
                let _ = write!(printer.out, "{PREFIX}block");
                Ok(())
            })?;
            self.push(" %}");
        }
        Ok(())
    }

    fn macro_of(&mut self, it: &ast::Macro<'_>, span: Span) -> Lowering {
        self.push("{% macro ");
        self.go(span);
        let own = name(it.name, span)?;
        self.push(own);
        self.parameters(it)?;
        self.push(" %}");
        self.body(&it.body)?;
        self.end("endmacro");
        Ok(())
    }

    /// `(a, b=1)`; the last parameters are those with a default.
    fn parameters(&mut self, it: &ast::Macro<'_>) -> Lowering {
        self.push("(");
        let first = it.args.len().saturating_sub(it.defaults.len());
        for (place, parameter) in it.args.iter().enumerate() {
            self.push(if place > 0 { ", " } else { "" });
            self.target(parameter)?;
            if let Some(default) = place.checked_sub(first).and_then(|at| it.defaults.get(at)) {
                self.push("=");
                self.expression(default)?;
            }
        }
        self.push(")");
        Ok(())
    }

    fn call_block(&mut self, it: &ast::CallBlock<'_>, span: Span) -> Lowering {
        self.push("{% call");
        self.go(span);
        self.parameters(&it.macro_decl)?;
        self.push(" ");
        self.called(&it.call, it.call.span())?;
        self.push(" %}");
        self.body(&it.macro_decl.body)?;
        self.end("endcall");
        Ok(())
    }

    /// Names that are set.
    fn target(&mut self, target: &Expr<'_>) -> Lowering {
        match target {
            Expr::Var(it) => {
                let own = name(it.id, it.span())?;
                self.push(own);
                Ok(())
            }
            Expr::List(it) => self.targets(&it.items),
            Expr::Tuple(it) => self.targets(&it.items),
            other => Err(missing("this target of an assignment", other.span())),
        }
    }

    fn targets(&mut self, all: &[Expr<'_>]) -> Lowering {
        self.push("(");
        for (place, target) in all.iter().enumerate() {
            self.push(if place > 0 { ", " } else { "" });
            self.target(target)?;
        }
        self.push(")");
        Ok(())
    }

    /// A call of an operator.
    fn call(&mut self, operator: &str, operands: &[&Expr<'_>]) -> Lowering {
        let _ = write!(self.out, "{PREFIX}{operator}(");
        for (place, operand) in operands.iter().enumerate() {
            self.push(if place > 0 { "," } else { "" });
            self.expression(operand)?;
        }
        self.push(")");
        Ok(())
    }

    fn expression(&mut self, expression: &Expr<'_>) -> Lowering {
        self.go(expression.span());
        match expression {
            Expr::Var(it) => {
                if ["varargs", "kwargs"].contains(&it.id) {
                    return Err(missing(&format!("`{}` of a macro", it.id), it.span()));
                }
                let own = name(it.id, it.span())?;
                self.push(own);
                Ok(())
            }
            Expr::Const(it) => {
                self.constant(it.value.clone());
                Ok(())
            }
            Expr::Slice(it) => self.slice(it),
            Expr::UnaryOp(it) => match it.op {
                UnaryOpKind::Not => {
                    self.push("(not ");
                    self.expression(&it.expr)?;
                    self.push(")");
                    Ok(())
                }
                UnaryOpKind::Neg => self.call("neg", &[&it.expr]),
            },
            Expr::BinOp(it) => self.binary(it),
            Expr::Compare(it) => {
                let _ = write!(self.out, "{PREFIX}compare(");
                self.expression(&it.expr)?;
                for next in &it.ops {
                    self.operand(compared(next.op), &next.expr)?;
                }
                self.push(")");
                Ok(())
            }
            Expr::IfExpr(it) => self.choice(it),
            Expr::Filter(it) => self.filter(it, it.span()),
            Expr::Test(it) => self.test(it),
            Expr::GetAttr(it) => {
                let _ = write!(self.out, "{PREFIX}attr(");
                self.expression(&it.expr)?;
                self.push(",");
                self.constant(Value::from(it.name));
                self.push(")");
                Ok(())
            }
            Expr::GetItem(it) => self.call("item", &[&it.expr, &it.subscript_expr]),
            Expr::Call(it) => self.called(it, it.span()),
            Expr::List(it) => self.literal("[", &it.items, "]"),
            Expr::Tuple(it) => self.literal("(", &it.items, if it.items.len() == 1 { ",)" } else { ")" }),
            Expr::Map(it) => self.map(it),
        }
    }

    fn operand(&mut self, operator: &str, operand: &Expr<'_>) -> Lowering {
        self.push(",");
        self.constant(Value::from(operator));
        self.push(",");
        self.expression(operand)
    }

    fn slice(&mut self, it: &ast::Slice<'_>) -> Lowering {
        let _ = write!(self.out, "{PREFIX}slice(");
        self.expression(&it.expr)?;
        for bound in [&it.start, &it.stop, &it.step] {
            self.push(",");
            match bound {
                Some(bound) => self.expression(bound)?,
                None => self.push("none"),
            }
        }
        self.push(")");
        Ok(())
    }

    fn binary(&mut self, it: &ast::BinOp<'_>) -> Lowering {
        let operator = match it.op {
            BinOpKind::ScAnd => return self.logical(it, " and "),
            BinOpKind::ScOr => return self.logical(it, " or "),
            BinOpKind::Eq => return self.compared(it, "=="),
            BinOpKind::Ne => return self.compared(it, "!="),
            BinOpKind::Lt => return self.compared(it, "<"),
            BinOpKind::Lte => return self.compared(it, "<="),
            BinOpKind::Gt => return self.compared(it, ">"),
            BinOpKind::Gte => return self.compared(it, ">="),
            BinOpKind::Add => return self.call("add", &chain(it)),
            BinOpKind::Concat => return self.call("concat", &chain(it)),
            BinOpKind::Sub => "sub",
            BinOpKind::Mul => "mul",
            BinOpKind::Div => "div",
            BinOpKind::FloorDiv => "floordiv",
            BinOpKind::Rem => "mod",
            BinOpKind::Pow => "pow",
            BinOpKind::In => "in",
        };
        self.call(operator, &[&it.left, &it.right])
    }

    fn logical(&mut self, it: &ast::BinOp<'_>, word: &str) -> Lowering {
        self.push("(");
        for (place, operand) in chain(it).into_iter().enumerate() {
            self.push(if place > 0 { word } else { "" });
            self.expression(operand)?;
        }
        self.push(")");
        Ok(())
    }

    fn compared(&mut self, it: &ast::BinOp<'_>, operator: &str) -> Lowering {
        let _ = write!(self.out, "{PREFIX}compare(");
        self.expression(&it.left)?;
        self.operand(operator, &it.right)?;
        self.push(")");
        Ok(())
    }

    fn choice(&mut self, it: &ast::IfExpr<'_>) -> Lowering {
        self.push("(");
        self.expression(&it.true_expr)?;
        self.push(" if ");
        self.expression(&it.test_expr)?;
        if let Some(other) = &it.false_expr {
            self.push(" else ");
            self.expression(other)?;
        }
        self.push(")");
        Ok(())
    }

    fn filter(&mut self, it: &ast::Filter<'_>, span: Span) -> Lowering {
        if filters::MISSING.contains(&it.name) {
            return Err(missing(&format!("the filter `{}`", it.name), span));
        }
        if let Some(value) = &it.expr {
            // What needs no parentheses has none: a long chain of filters must not become a deep one.
            let plain = matches!(value, Expr::Filter(_) | Expr::Var(_) | Expr::Const(_));
            self.push(if plain { "" } else { "(" });
            self.expression(value)?;
            self.push(if plain { "|" } else { ")|" });
        }
        self.push(it.name);
        self.arguments(&it.args)
    }

    fn test(&mut self, it: &ast::Test<'_>) -> Lowering {
        self.push("((");
        self.expression(&it.expr)?;
        self.push(") is ");
        // Comparisons are tests by their signs too, which cannot be written by name.
        self.push(match it.name {
            "==" => "eq",
            "!=" => "ne",
            "<" => "lt",
            "<=" => "le",
            ">" => "gt",
            ">=" => "ge",
            name => name,
        });
        if !it.args.is_empty() {
            self.arguments(&it.args)?;
        }
        self.push(")");
        Ok(())
    }

    fn called(&mut self, it: &ast::Call<'_>, span: Span) -> Lowering {
        match &it.expr {
            Expr::GetAttr(method) => {
                if methods::MISSING.contains(&method.name) {
                    return Err(missing(&format!("the method `{}`", method.name), span));
                }
                if let (Expr::Const(pattern), "format") = (&method.expr, method.name)
                    && ["!r", "!s", "!a"].iter().any(|it| pattern.value.as_str().is_some_and(|own| own.contains(it)))
                {
                    return Err(missing("a conversion in `format`", span));
                }
                self.push("(");
                self.expression(&method.expr)?;
                self.push(").");
                self.push(method.name);
            }
            Expr::Var(it) if ["cycler", "joiner", "lipsum"].contains(&it.id) => {
                return Err(missing(&format!("the function `{}`", it.id), span));
            }
            function @ Expr::Var(_) => self.expression(function)?,
            other => {
                self.push("(");
                self.expression(other)?;
                self.push(")");
            }
        }
        self.arguments(&it.args)
    }

    fn arguments(&mut self, all: &[CallArg<'_>]) -> Lowering {
        self.push("(");
        for (place, argument) in all.iter().enumerate() {
            self.push(if place > 0 { "," } else { "" });
            match argument {
                CallArg::Pos(value) => self.expression(value)?,
                CallArg::Kwarg(name, value) => {
                    self.push(name);
                    self.push("=");
                    self.expression(value)?;
                }
                CallArg::PosSplat(value) => {
                    self.push("*");
                    self.expression(value)?;
                }
                CallArg::KwargSplat(value) => {
                    self.push("**");
                    self.expression(value)?;
                }
            }
        }
        self.push(")");
        Ok(())
    }

    fn literal(&mut self, open: &str, all: &[Expr<'_>], close: &str) -> Lowering {
        let _ = write!(self.out, "{PREFIX}nested({open}");
        for (place, item) in all.iter().enumerate() {
            self.push(if place > 0 { "," } else { "" });
            self.expression(item)?;
        }
        self.push(close);
        self.push(")");
        Ok(())
    }

    fn map(&mut self, it: &ast::Map<'_>) -> Lowering {
        let _ = write!(self.out, "{PREFIX}nested({{");
        for (place, (key, value)) in it.keys.iter().zip(&it.values).enumerate() {
            self.push(if place > 0 { "," } else { "" });
            self.expression(key)?;
            self.push(":");
            self.expression(value)?;
        }
        self.push("})");
        Ok(())
    }
}

/// The operands of `a + b + c`, which is parsed as `(a + b) + c`. A long one must not become a deep one.
fn chain<'a, 'source>(it: &'a ast::BinOp<'source>) -> Vec<&'a Expr<'source>> {
    let mut operands = vec![&it.right];
    let mut left = &it.left;
    while let Expr::BinOp(next) = left
        && std::mem::discriminant(&next.op) == std::mem::discriminant(&it.op)
    {
        operands.push(&next.right);
        left = &next.left;
    }
    operands.push(left);
    operands.reverse();
    operands
}

const fn compared(operator: CompareOpKind) -> &'static str {
    match operator {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_marks_keep_their_white_space_marks() {
        assert_eq!(
            in_library_tags("a{%- generation -%} b {% endgeneration %}{% if generation %}{%").as_deref(),
            Ok("a{%- with -%} b {% endwith %}{% if generation %}{%")
        );
        assert_eq!(
            in_library_tags("{% raw %}\n{% generation %}{% endraw %}{% generation %}").as_deref(),
            Ok("{% raw %}\n\n{% generation %}{% endraw %}{% with %}")
        );
    }
}
