package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 860
	plotLeft   = 130 // of the names
	plotRight  = 30
	plotTop    = 70 // of title and legend
	plotBottom = 50 // of the axis
	plotLine   = 16 // from one bar to the next
	plotGap    = 14 // between variants
	mostTicks  = 16 // of the axis, or their numbers would meet
)

// plotColours tell the numbers of callers apart, for the colour-blind too; they are used again from the seventh on.
var plotColours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// plot draws every ratio as a dot (median) on a bar (smallest to largest), as SVG. 1 is the baseline.
func (r *report) plot() string {
	block := len(r.Settings.Callers)*plotLine + plotGap
	bottom := plotTop + len(r.Variants)*block
	p := &plotter{most: r.largestRatio()}

	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`, plotWidth, bottom+plotBottom)
	p.printf(`<rect width="100%%" height="100%%" fill="white"/>`)
	p.text(plotLeft, 22, "start", "Throughput as a ratio to the baseline: median, and smallest to largest round")
	for i, callers := range r.Settings.Callers {
		x := plotLeft + i*100
		p.printf(`<circle cx="%d" cy="42" r="4" fill="%s"/>`, x, colour(i))
		p.text(x+8, 46, "start", callersName(callers))
	}
	step := .25
	for p.most/step > mostTicks {
		step *= 2
	}
	for tick := 0.0; tick <= p.most+.001; tick += step {
		stroke, width := "#dddddd", 1
		if tick == 1 {
			stroke, width = "#888888", 2
		}
		p.line(p.x(tick), plotTop, p.x(tick), float64(bottom), stroke, width)
		p.text(int(p.x(tick)), bottom+18, "middle", fmt.Sprintf("%.2f", tick))
	}
	for n, v := range r.Variants {
		top := plotTop + n*block + plotGap
		p.text(plotLeft-10, top+(block-plotGap)/2, "end", v.Name)
		for i, m := range v.Measured {
			if m.Ratio.Count > 0 {
				p.bar(float64(top+i*plotLine), m.Ratio, colour(i))
			}
		}
	}
	p.text(plotLeft, bottom+38, "start", r.Machine.PostgreSQL)
	p.printf("</svg>")
	return p.String()
}

// largestRatio is where the axis ends: at the next quarter after the last bar, and not before the baseline's 1.
func (r *report) largestRatio() float64 {
	most := 1.0
	for _, v := range r.Variants {
		for _, m := range v.Measured {
			most = max(most, m.Ratio.Max)
		}
	}
	return math.Ceil(most*4) / 4
}

func colour(i int) string { return plotColours[i%len(plotColours)] }

type plotter struct {
	strings.Builder
	most float64 // ratio at the right end
}

func (p *plotter) x(ratio float64) float64 {
	return plotLeft + ratio/p.most*(plotWidth-plotLeft-plotRight)
}

func (p *plotter) bar(y float64, s spread, colour string) {
	p.line(p.x(s.Min), y, p.x(s.Max), y, colour, 2)
	for _, end := range []float64{s.Min, s.Max} {
		p.line(p.x(end), y-4, p.x(end), y+4, colour, 2)
	}
	p.printf(`<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%s</title></circle>`, p.x(s.Median), y, colour, s)
}

func (p *plotter) line(x1, y1, x2, y2 float64, stroke string, width int) {
	p.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%d"/>`, x1, y1, x2, y2, stroke, width)
}

func (p *plotter) text(x, y int, anchor, text string) {
	p.printf(`<text x="%d" y="%d" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(text))
}

func (p *plotter) printf(format string, args ...any) {
	fmt.Fprintf(&p.Builder, format+"\n", args...)
}
