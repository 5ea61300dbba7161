package pgidem

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"strings"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// warn looks for what works with less through a pooler.
func (p *prober) warn(ctx context.Context) error {
	if p.report.Pooler == "" {
		return nil
	}
	p.report.Warnings = append(p.report.Warnings, "A client host that vanishes is noticed by the pooler, not by the server: "+
		"without its own keepalives (PgBouncer: tcp_keepidle, tcp_keepintvl, tcp_keepcnt, tcp_user_timeout) a key may stay locked for hours.")
	if p.report.Pooler == poolerSession {
		p.report.Warnings = append(p.report.Warnings, "The pooler keeps a server connection for each connection of the pool: "+
			"it must allow as many as all pools have together (PgBouncer: default_pool_size), or calls wait for each other.")
	}
	lost, err := p.lostParameters(ctx)
	if err != nil {
		return unanswered(err, "the probe's question about settings")
	}
	if lost != "" {
		p.report.Warnings = append(p.report.Warnings,
			"The pooler does not pass these start-up parameters on: "+lost+"; set them for the role or the database (ALTER ROLE, ALTER DATABASE).")
	}
	return nil
}

// lostParameters names the start-up parameters that have not reached the server. What `options` sets is looked for under
// the settings' own names: the server has none that is called options.
func (p *prober) lostParameters(ctx context.Context) (string, error) {
	asked := map[string]string{} // an object for the server, also where there is none
	maps.Copy(asked, p.client.pool.Config().ConnConfig.RuntimeParams)
	options, has := asked["options"]
	delete(asked, "options")
	lost, err := p.lostSettings(ctx, asked)
	if err != nil || !has {
		return lost, err
	}
	within, known := optionSettings(options)
	inOptions, err := p.lostSettings(ctx, within)
	switch {
	case err != nil:
		return "", err
	case known && inOptions == "":
		return lost, nil
	case inOptions != "":
		inOptions = " (" + inOptions + ")"
	}
	return strings.TrimPrefix(lost+", options"+inOptions, ", "), nil
}

func (p *prober) lostSettings(ctx context.Context, asked map[string]string) (string, error) {
	text, err := json.Marshal(asked)
	if err != nil {
		return "", err
	}
	return dbsqlc.New().ProbeParameters(ctx, p.through(p.pooled), string(text))
}

// serverOption is one of the server's command line: -c name=value, or --name=value. A space in a value has a backslash.
var serverOption = regexp.MustCompile(`^\s*(?:-c\s*|--)([\w.-]+)=((?:\\.|[^\s\\])*)(?:\s+|$)`)

// optionSettings reads the settings in the start-up parameter options; known is false where there is something else in it.
func optionSettings(options string) (settings map[string]string, known bool) {
	settings = map[string]string{}
	for strings.TrimSpace(options) != "" {
		found := serverOption.FindStringSubmatch(options)
		if found == nil {
			return settings, false
		}
		settings[strings.ReplaceAll(found[1], "-", "_")] = unescape.ReplaceAllString(found[2], "$1")
		options = options[len(found[0]):]
	}
	return settings, true
}

var unescape = regexp.MustCompile(`\\(.)`)
