package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

// What poolers refuse, here a start-up parameter of pgidem.PoolConfig, comes with the way out.
func TestBehindAPooler(t *testing.T) {
	t.Parallel()
	db := devpg.Empty(t)
	pooler := devpg.NewPooler(t)
	for name, f := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pooler.Pool(t, db, func(p *pgxpool.Config) { p.ConnConfig.RuntimeParams["tcp_user_timeout"] = "5000" })
			wantWords(t, f(t.Context(), pool), "08P01", "start-up parameter", "direct connection")
		})
	}
}
