//! Aligned columns, laid out as crictl and kubectl do.
//!
//! In: a header and rows. Out: text, one line per row, no trailing blanks. Control characters in a cell (a name
//! from a foreign runtime) are shown as `?`, so that no cell can talk to the terminal.

/// Rows of cells under a header.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    narrowest: usize,
}

/// Blanks after the widest cell of a column.
const PADDING: usize = 3;

impl Table {
    /// Columns at least 20 wide, as crictl has them.
    pub(crate) fn crictl(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new(), narrowest: 20 }
    }

    /// Columns at least 6 wide, as kubectl has them.
    pub(crate) fn kubectl(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new(), narrowest: 6 }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    pub(crate) fn render(&self) -> String {
        let header: Vec<String> = self.header.iter().map(|cell| (*cell).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.header.len()).map(|column| self.width(&lines, column)).collect();
        lines.iter().map(|cells| line(cells, &widths)).collect()
    }

    fn width(&self, lines: &[&Vec<String>], column: usize) -> usize {
        let widest =
            lines.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max();
        (widest.unwrap_or(0) + PADDING).max(self.narrowest)
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.trim_end())
}

fn printable(cell: String) -> String {
    if cell.contains(char::is_control) { cell.replace(char::is_control, "?") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_plus_three() {
        let mut table = Table::kubectl(&["NAME", "READY", "AGE"]);
        table.row(vec!["a-long-name".into(), "1/1".into(), "5m".into()]);
        table.row(vec!["b".into(), "0/1".into(), "7s".into()]);
        let expected = "NAME          READY   AGE\na-long-name   1/1     5m\nb             0/1     7s\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn crictl_columns_are_never_narrower_than_twenty() {
        let mut table = Table::crictl(&["IMAGE", "TAG"]);
        table.row(vec!["x".into(), "1".into()]);
        assert_eq!(table.render(), "IMAGE               TAG\nx                   1\n");
    }

    #[test]
    fn a_cell_cannot_send_escape_sequences() {
        let mut table = Table::kubectl(&["NAME"]);
        table.row(vec!["\u{1b}[31mred\n".into()]);
        assert_eq!(table.render(), "NAME\n?[31mred?\n");
    }

    #[test]
    fn width_counts_characters_not_bytes() {
        let mut table = Table::kubectl(&["NAME", "X"]);
        table.row(vec!["äöüß".into(), "1".into()]);
        assert_eq!(table.render(), "NAME   X\näöüß   1\n");
    }
}
