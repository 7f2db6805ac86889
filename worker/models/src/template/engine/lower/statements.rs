//! Statements, lowered: each tag as the library writes it, with lowered expressions in it.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, Expr, Stmt};

use super::printer::{Lowering, Printer, missing, name};
use crate::template::engine::operators::PREFIX;

impl Printer {
    fn body(&mut self, statements: &[Stmt<'_>]) -> Lowering {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    pub(super) fn statement(&mut self, statement: &Stmt<'_>) -> Lowering {
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
}
