//! The filter language of lists: `~c 5 | ~lat >200ms`. Text in, [`Expr`] out, [`Expr::matches`] asks one event.
//!
//! `lexer` cuts the text, `parser` builds the tree and knows where an error stands, `matcher` asks an event, `printer` writes
//! the tree so that it parses to the same. No I/O, no clock, no terminal.

mod ast;
mod lexer;
mod matcher;
mod parser;
mod printer;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    ast::Expr,
    matcher::Subject,
    parser::{FilterError, OPERATORS, parse},
};
