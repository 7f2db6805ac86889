//! Expressions, lowered: operators, subscripts and attributes as calls of ours.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};

use super::printer::{Lowering, Printer, missing, name};
use crate::template::engine::operators::PREFIX;
use crate::template::engine::{filters, methods};

impl Printer {
    /// A call of an operator.
    pub(super) fn call(&mut self, operator: &str, operands: &[&Expr<'_>]) -> Lowering {
        let _ = write!(self.out, "{PREFIX}{operator}(");
        for (place, operand) in operands.iter().enumerate() {
            self.push(if place > 0 { "," } else { "" });
            self.expression(operand)?;
        }
        self.push(")");
        Ok(())
    }

    pub(super) fn expression(&mut self, expression: &Expr<'_>) -> Lowering {
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

    pub(super) fn called(&mut self, it: &ast::Call<'_>, span: Span) -> Lowering {
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
