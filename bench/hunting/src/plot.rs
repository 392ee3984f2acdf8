use core::fmt::Write as _;

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it is.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A plot of several curves, as SVG.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below the horizontal axis.
    pub x: &'static str,
    /// Beside the vertical one.
    pub y: &'static str,
    /// The marks of the horizontal axis; the first and the last are its ends.
    pub x_marks: Vec<f64>,
    /// The same, for the vertical axis.
    pub y_marks: Vec<f64>,
    /// Whether the horizontal axis is logarithmic.
    pub x_is_logarithmic: bool,
    /// What is shown.
    pub curves: Vec<Curve>,
}

/// Pixels: of the whole, and of what is around the plot itself.
const SIZE: (f64, f64) = (720.0, 400.0);
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;

/// Told apart by those who see red and green alike, too (Okabe and Ito, 2008).
const COLOURS: [&str; 7] =
    ["#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7"];

impl Plot {
    /// The picture.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> core::fmt::Result {
        let (width, height) = SIZE;
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">"
        )?;
        writeln!(out, "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
        let (middle, bottom) = ((LEFT + width - RIGHT) / 2.0, height - BOTTOM);
        self.text(out, (middle, 14.0), "middle", &self.title)?;
        self.text(out, (middle, height - 10.0), "middle", self.x)?;
        self.text(out, (8.0, TOP - 6.0), "start", self.y)?;
        for &mark in &self.x_marks {
            let x = self.at(mark, 0.0).0;
            writeln!(out, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#dddddd\" fill=\"none\"/>")?;
            self.text(out, (x, bottom + 16.0), "middle", &format!("{mark}"))?;
        }
        let (left, right) = (LEFT, width - RIGHT);
        for &mark in &self.y_marks {
            let y = self.at(1.0, mark).1;
            writeln!(out, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\" fill=\"none\"/>")?;
            self.text(out, (left - 6.0, y + 4.0), "end", &format!("{mark}"))?;
        }
        for (n, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            write!(
                out,
                "<polyline fill=\"none\" stroke-width=\"1.6\" stroke=\"{colour}\" points=\""
            )?;
            for &(x, y) in &curve.points {
                let (x, y) = self.at(x, y);
                write!(out, "{x:.1},{y:.1} ")?;
            }
            writeln!(out, "\"/>")?;
            let y = TOP + 14.0 + 18.0 * n as f64;
            let from = right + 12.0;
            let to = from + 20.0;
            writeln!(out, "<path d=\"M{from} {y}H{to}\" stroke-width=\"2\" stroke=\"{colour}\"/>")?;
            self.text(out, (to + 6.0, y + 4.0), "start", &curve.name)?;
        }
        writeln!(out, "</svg>")
    }

    fn text(
        &self,
        out: &mut String,
        (x, y): (f64, f64),
        anchor: &str,
        text: &str,
    ) -> core::fmt::Result {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
    }

    /// Where a value is, in pixels; what is outside the axes is put at their ends.
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let scale = |x: f64| if self.x_is_logarithmic { x.max(1e-9).ln() } else { x };
        let share = |value: f64, marks: &[f64], scale: &dyn Fn(f64) -> f64| {
            let first = scale(marks.first().copied().unwrap_or(0.0));
            let last = scale(marks.last().copied().unwrap_or(1.0));
            ((scale(value) - first) / (last - first)).clamp(0.0, 1.0)
        };
        let (width, height) = (SIZE.0 - LEFT - RIGHT, SIZE.1 - TOP - BOTTOM);
        let across = share(x, &self.x_marks, &scale);
        let up = share(y, &self.y_marks, &|y| y);
        (LEFT + width * across, TOP + height * (1.0 - up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_where_the_marks_are() {
        let plot = Plot {
            title: "a < b".into(),
            x: "s",
            y: "share",
            x_marks: vec![0.01, 0.1, 1.0],
            y_marks: vec![0.0, 1.0],
            x_is_logarithmic: true,
            curves: vec![Curve { name: "c".into(), points: vec![(0.1, 0.5), (5.0, 2.0)] }],
        };
        let middle = (LEFT + (SIZE.0 - LEFT - RIGHT) / 2.0, TOP + (SIZE.1 - TOP - BOTTOM) / 2.0);
        let at = plot.at(0.1, 0.5);
        assert!((at.0 - middle.0).abs() < 1e-6 && (at.1 - middle.1).abs() < 1e-6);
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(&format!("{:.1},{:.1} {:.1},{TOP:.1} ", at.0, at.1, SIZE.0 - RIGHT)));
    }
}
