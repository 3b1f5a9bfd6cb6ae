//! How meanings look. By default the 16 colours of the terminal on its own background; every colour has a second sign in the text.

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;

use super::tone::Tone;

/// A theme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThemeName {
    /// The terminal's own colours.
    #[default]
    Terminal,
    /// The same without the light ones, for a white background.
    Light,
    /// No colour: bold, dim, underlined and reverse only.
    Mono,
}

impl ThemeName {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Light => "light",
            Self::Mono => "mono",
        }
    }

    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Terminal => Self::Light,
            Self::Light => Self::Mono,
            Self::Mono => Self::Terminal,
        }
    }

    /// How a meaning looks.
    pub(crate) fn style(self, tone: Tone) -> Style {
        let (color, modifier) = look(tone);
        let style = Style::new().add_modifier(modifier);
        match (self, color) {
            (Self::Mono, _) | (_, None) => style,
            (Self::Terminal, Some(color)) => style.fg(color),
            (Self::Light, Some(color)) => style.fg(darker(color)),
        }
    }
}

fn look(tone: Tone) -> (Option<Color>, Modifier) {
    let none = Modifier::empty();
    match tone {
        Tone::Plain => (None, none),
        Tone::Dim | Tone::Border => (None, Modifier::DIM),
        Tone::Strong | Tone::Title | Tone::Focus => (None, Modifier::BOLD),
        Tone::Good | Tone::Get => (Some(Color::Green), none),
        Tone::Note => (Some(Color::Blue), none),
        Tone::Warn | Tone::Post => (Some(Color::Yellow), none),
        Tone::Bad => (Some(Color::Red), Modifier::BOLD),
        Tone::Alarm => (Some(Color::Red), Modifier::BOLD.union(Modifier::REVERSED)),
        Tone::Mirror | Tone::Put | Tone::Name => (Some(Color::Cyan), none),
        Tone::Steal => (Some(Color::Magenta), Modifier::BOLD),
        Tone::Outgoing => (Some(Color::Blue), none),
        Tone::Delete => (Some(Color::Red), none),
        Tone::Text => (Some(Color::Green), none),
        Tone::Number => (Some(Color::Magenta), none),
        Tone::Match => (None, Modifier::BOLD.union(Modifier::UNDERLINED)),
        Tone::Selected => (None, Modifier::REVERSED),
        Tone::Badge => (Some(Color::Yellow), Modifier::REVERSED),
        Tone::Key => (None, Modifier::BOLD),
    }
}

/// What can be read on white.
const fn darker(color: Color) -> Color {
    match color {
        Color::Yellow => Color::Red,
        Color::Cyan => Color::Blue,
        other => other,
    }
}
