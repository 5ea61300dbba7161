package pgidem

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestPoolConfig(t *testing.T) {
	t.Parallel()
	defaults := map[string]string{
		"tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3",
		"tcp_user_timeout": "5000", "client_connection_check_interval": "1000",
	}
	with := func(params ...string) map[string]string {
		want := maps.Clone(defaults)
		for i := 0; i < len(params); i += 2 {
			want[params[i]] = params[i+1]
		}
		return want
	}
	for _, c := range []struct {
		name, dsn string
		want      map[string]string
	}{
		{"URL", "postgres://u:p@127.0.0.1:5432/db", with()},
		{"KeywordValue", "host=127.0.0.1 user=u dbname=db", with()},
		{"KeepsTheRest", "host=127.0.0.1 application_name=shop", with("application_name", "shop")},
		{"SetInTheURL", "postgres://127.0.0.1/db?tcp_user_timeout=60000", with("tcp_user_timeout", "60000")},
		{"SwitchedOff", "host=127.0.0.1 client_connection_check_interval=0", with("client_connection_check_interval", "0")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config, err := PoolConfig(c.dsn)
			if err != nil {
				t.Fatal(err)
			}
			if got := config.ConnConfig.RuntimeParams; !maps.Equal(got, c.want) {
				t.Errorf("start-up parameters %v, want %v", got, c.want)
			}
		})
	}

	t.Run("PoolSettings", func(t *testing.T) {
		t.Parallel()
		config, err := PoolConfig("host=127.0.0.1 pool_max_conns=7")
		if err != nil || config.MaxConns != 7 {
			t.Errorf("got %+v, %v; want a pool of 7", config, err)
		}
	})

	t.Run("RefusesWhatCannotBeParsed", func(t *testing.T) {
		t.Parallel()
		for _, dsn := range []string{"postgres://u:secret@127.0.0.1:port/db", "password=secret port=x", "password=secret pool_max_conns=none"} {
			config, err := PoolConfig(dsn)
			if !errors.Is(err, ErrConfig) || config != nil {
				t.Fatalf("%s: %v, %v; want ErrConfig", dsn, config, err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
		}
	})
}

// TestPoolConfigReachesTheServer asks the server what became of the parameters.
func TestPoolConfigReachesTheServer(t *testing.T) {
	t.Parallel()
	config, err := PoolConfig(devpg.New(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for name, want := range map[string]string{
		"tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3",
		"tcp_user_timeout": "5000", "client_connection_check_interval": "1s",
	} {
		var got string
		if err := pool.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
