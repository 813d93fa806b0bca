//! `tidemark top`: the cluster on one screen, live; `--once` prints one frame.

mod draw;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{self, Cluster, To};
use super::sample::Sample;
use super::watch::span;
use super::{Failure, output};
use view::View;

const KEYS_EVERY: Duration = Duration::from_millis(50);

/// A live screen: brokers, topics by records per second, groups by lag.
#[derive(Args, Debug)]
#[command(after_help = "\
Rates are records per second: IN from how far the ends of partitions moved, OUT from how far groups committed.
Keys: q ends, up and down (or k and j) scroll, space looks at once.

Examples:
  tidemark top
  tidemark top 'orders*' --every 5s
  tidemark top --once --json | jq '.groups[] | select(.lag > 1000)'")]
pub struct Top {
    #[command(flatten)]
    to: To,
    /// Names of topics, or patterns with * and ?; all but internal ones without any.
    patterns: Vec<String>,
    /// How often to look.
    #[arg(long, default_value = "2s", value_name = "SPAN")]
    every: String,
    /// Look twice, print one frame as text, and end.
    #[arg(long)]
    once: bool,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Draw,
    Look,
    Scroll(i32),
}

impl Top {
    /// Shows it until a key or Ctrl-C ends it.
    pub fn run(self) -> Result<(), Failure> {
        let every = span("--every", &self.every)?;
        if !self.once && !std::io::stdout().is_terminal() {
            return Err(Failure::Wrong("stdout is no terminal: say --once for one frame as text".into()));
        }
        client::stay(&self.to, async |cluster, stop| match self.once || self.to.json {
            true => self.once(&cluster, every).await,
            false => self.live(cluster, every, stop).await,
        })
    }

    async fn once(&self, cluster: &Cluster, every: Duration) -> Result<(), Failure> {
        let before = Sample::take(cluster, &self.patterns, true).await?;
        tokio::time::sleep(every).await;
        let after = Sample::take(cluster, &self.patterns, true).await?;
        let view = View::new(Some(&before), &after);
        output::show_text(self.to.json, &view, || draw::text(&view))
    }

    async fn live(
        &self,
        cluster: Arc<Cluster>,
        every: Duration,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let first = Sample::take(&cluster, &self.patterns, true).await?;
        let failed = |error: std::io::Error| Failure::Failed(format!("cannot draw on the terminal: {error}"));
        let terminal = ratatui::try_init().map_err(failed)?;
        let done = self.screen(&cluster, terminal, first, every, stop).await;
        ratatui::restore();
        done.map_err(failed)
    }

    async fn screen(
        &self,
        cluster: &Cluster,
        mut terminal: DefaultTerminal,
        first: Sample,
        every: Duration,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let mut view = View::new(None, &first);
        let (mut before, mut scroll) = (first, 0);
        // The first rates should not take long.
        let mut due = Instant::now() + every.min(Duration::from_secs(1));
        loop {
            terminal.draw(|frame| draw::draw(&view, scroll, frame.area(), frame.buffer_mut()))?;
            let look = async {
                tokio::time::sleep_until(due).await;
                Sample::take(cluster, &self.patterns, true).await
            };
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                wish = wish() => Err(wish?),
                taken = look => Ok(taken),
            };
            match taken {
                Err(Wish::Quit) => return Ok(()),
                Err(Wish::Draw) => {}
                Err(Wish::Look) => due = Instant::now(),
                Err(Wish::Scroll(lines)) => {
                    scroll = (scroll + lines).clamp(0, i32::try_from(view.topics.len()).unwrap_or(i32::MAX));
                }
                Ok(Ok(after)) => {
                    view = View::new(Some(&before), &after);
                    before = after;
                    due = Instant::now() + every;
                }
                Ok(Err(trouble)) => {
                    view.note = Some(trouble.to_string());
                    due = Instant::now() + every;
                }
            }
        }
    }
}

/// Waits for a key that means something.
async fn wish() -> std::io::Result<Wish> {
    loop {
        while event::poll(Duration::ZERO)? {
            if let Some(wish) = meaning(&event::read()?) {
                return Ok(wish);
            }
        }
        tokio::time::sleep(KEYS_EVERY).await;
    }
}

fn meaning(event: &Event) -> Option<Wish> {
    let key = match event {
        Event::Resize(..) => return Some(Wish::Draw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    match key.code {
        // The terminal hands Ctrl-C over as a key.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char(' ') => Some(Wish::Look),
        KeyCode::Char('j') | KeyCode::Down => Some(Wish::Scroll(1)),
        KeyCode::Char('k') | KeyCode::Up => Some(Wish::Scroll(-1)),
        KeyCode::PageDown => Some(Wish::Scroll(10)),
        KeyCode::PageUp => Some(Wish::Scroll(-10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn keys_mean_what_help_says() {
        let key = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(key(KeyCode::Char('j'), KeyModifiers::NONE), Some(Wish::Scroll(1)));
        assert_eq!(meaning(&Event::Resize(1, 1)), Some(Wish::Draw));
    }
}
