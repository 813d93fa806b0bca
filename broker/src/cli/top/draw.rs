//! A view as a frame: on a terminal's cells, or as text.

use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Text;
use ratatui::widgets::{Cell, Paragraph, Row, Table, Widget};

use super::view::View;

const TEXT_WIDTH: u16 = 110;
const BROKERS_MAX: usize = 8;

/// Draws the view; `scroll` leaves out the first topics and groups.
pub fn draw(view: &View, scroll: i32, area: Rect, buffer: &mut Buffer) {
    let brokers = u16::try_from(view.brokers.len().min(BROKERS_MAX)).unwrap_or(1) + 2;
    let groups = u16::try_from(view.groups.len()).unwrap_or(u16::MAX).saturating_add(2);
    let groups = groups.min(area.height / 3).max(4);
    let rows =
        [Constraint::Length(2), Constraint::Length(brokers), Constraint::Min(3), Constraint::Length(groups)];
    let [head, first, second, third] = Layout::vertical(rows).areas(area);
    let skip = usize::try_from(scroll).unwrap_or(0);
    Paragraph::new(title(view)).render(head, buffer);
    self::brokers(view).render(first, buffer);
    topics(view, skip).render(second, buffer);
    self::groups(view, skip).render(third, buffer);
}

/// The whole view as lines, as long as they need to be.
pub fn text(view: &View) -> String {
    let lines = |count: usize| u16::try_from(count + 2).unwrap_or(u16::MAX);
    let mut text = String::new();
    let mut add = |widget: Widgets, height: u16| {
        let area = Rect::new(0, 0, TEXT_WIDTH, height);
        let mut buffer = Buffer::empty(area);
        match widget {
            Widgets::Title(title) => title.render(area, &mut buffer),
            Widgets::Table(table) => table.render(area, &mut buffer),
        }
        for y in 0..height {
            let line: String =
                (0..TEXT_WIDTH).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
    };
    add(Widgets::Title(Paragraph::new(title(view))), 2);
    add(Widgets::Table(brokers(view)), lines(view.brokers.len().min(BROKERS_MAX)));
    add(Widgets::Table(topics(view, 0)), lines(view.topics.len()));
    add(Widgets::Table(groups(view, 0)), lines(view.groups.len()));
    let whole = text.trim_end().to_owned();
    whole + "\n"
}

enum Widgets<'a> {
    Title(Paragraph<'a>),
    Table(Table<'a>),
}

fn title(view: &View) -> String {
    let said = match &view.note {
        Some(note) => format!("NO ANSWER: {note}"),
        None => format!(
            "cluster {}: {} brokers, {} topics, {} partitions ({} without a leader), {} records/s in",
            view.cluster.as_deref().unwrap_or("-"),
            view.brokers.len(),
            view.topics.len(),
            view.partitions,
            view.offline,
            rate(view.records_in)
        ),
    };
    said + "\n"
}

fn brokers(view: &View) -> Table<'static> {
    let rows = view.brokers.iter().take(BROKERS_MAX).map(|broker| {
        let mut address = broker.address.clone();
        if broker.controller {
            address.push_str(" (controller)");
        }
        let rack = broker.rack.clone().unwrap_or_else(|| "-".into());
        row([broker.broker.to_string(), address], [rack], [broker.leads.to_string(), rate(broker.records_in)])
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Min(30),
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(12),
    ];
    let head = row(["BROKER", "ADDRESS"], ["RACK"], ["LEADS", "IN/S"].map(String::from));
    table(rows.collect(), widths, head)
}

fn topics(view: &View, skip: usize) -> Table<'static> {
    let rows = view.topics.iter().skip(skip).map(|topic| {
        let offline = if topic.offline == 0 { String::new() } else { topic.offline.to_string() };
        let numbers = [
            topic.partitions.to_string(),
            offline,
            rate(topic.records_in),
            rate(topic.records_out),
            topic.lag.map_or_else(|| "-".into(), |lag| lag.to_string()),
            topic.end.to_string(),
        ];
        row([topic.topic.clone()], [], numbers)
    });
    let widths = [
        Constraint::Min(30),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(14),
    ];
    let numbers = ["PARTITIONS", "OFFLINE", "IN/S", "OUT/S", "LAG", "ENDS"].map(String::from);
    table(rows.collect(), widths, row(["TOPIC"], [], numbers))
}

fn groups(view: &View, skip: usize) -> Table<'static> {
    let rows = view.groups.iter().skip(skip).map(|group| {
        let growth = group.growth.map_or_else(|| "-".into(), |growth| format!("{growth:+.1}"));
        let eta = match (group.lag, group.eta_s) {
            (0, _) => String::new(),
            (_, Some(seconds)) => span(seconds),
            (_, None) => "-".into(),
        };
        let numbers = [group.lag.to_string(), rate(group.records_out), growth, eta];
        row([group.group.clone()], [group.state.clone()], numbers)
    });
    let widths = [
        Constraint::Min(30),
        Constraint::Length(20),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
    ];
    let numbers = ["LAG", "OUT/S", "LAG GROWS/S", "CAUGHT UP IN"].map(String::from);
    table(rows.collect(), widths, row(["GROUP"], ["STATE"], numbers))
}

fn table<const N: usize>(
    rows: Vec<Row<'static>>,
    widths: [Constraint; N],
    head: Row<'static>,
) -> Table<'static> {
    Table::new(rows, widths).header(head.style(Style::new().add_modifier(Modifier::BOLD))).column_spacing(1)
}

/// Words stand left, numbers right.
fn row<S: Into<String>, const A: usize, const B: usize, const C: usize>(
    words: [S; A],
    more: [S; B],
    numbers: [String; C],
) -> Row<'static> {
    let word = |word: S| Cell::from(word.into());
    let number = |number: String| Cell::from(Text::from(number).alignment(Alignment::Right));
    Row::new(
        words
            .into_iter()
            .map(word)
            .chain(more.into_iter().map(word))
            .chain(numbers.into_iter().map(number))
            .collect::<Vec<_>>(),
    )
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

/// Seconds in the two largest units.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::view::tests::sample;
    use super::*;

    fn view() -> View {
        let then = Instant::now();
        let before = sample(then, [100, 100], [0, 100]);
        View::new(Some(&before), &sample(then + Duration::from_secs(2), [120, 100], [60, 100]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_as_text_has_every_broker_topic_and_group() {
        let text = text(&view());
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(
            text.starts_with("cluster c: 2 brokers, 2 topics, 3 partitions (1 without a leader), 10.0"),
            "{text}"
        );
        for want in [
            &["1", "h:1", "(controller)", "-", "1", "10.0"][..],
            &["t", "2", "10.0", "30.0", "60", "220"],
            &["idle", "1", "1", "0.0", "0.0", "-", "0"],
            &["g", "Stable", "60", "30.0", "-20.0", "3s"],
        ] {
            assert!(lines.iter().any(|line| line == want), "{want:?} in\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_fits_any_terminal() {
        for (width, height) in [(200, 60), (80, 24), (20, 5), (1, 1)] {
            let area = Rect::new(0, 0, width, height);
            draw(&view(), 1, area, &mut Buffer::empty(area));
        }
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!([span(5), span(65), span(3_661), span(90_000)], ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
