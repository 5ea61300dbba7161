package pgidem

import (
	"github.com/jackc/pgx/v5/pgxpool"
)

// PoolConfig parses a connection string as [pgxpool.ParseConfig] does and adds, where the string does not set them
// itself, what a pool that is connected to PostgreSQL directly should have: without it the server keeps the transaction
// and the key's lock of a host that has vanished for as long as its operating system keeps the connection, by default
// two hours.
//
//   - tcp_keepalives_idle=2, tcp_keepalives_interval=1, tcp_keepalives_count=3 and tcp_user_timeout=5000: the server
//     notices a vanished host within about 5 s, in a quiet connection and with an answer under way.
//   - client_connection_check_interval=1000: it notices within 1 s that the client of a running statement is gone.
//
// They are sent as start-up parameters, which poolers refuse, as [Client.Probe] then says (ErrPooler), or swallow: use
// pgxpool.ParseConfig there, and set keepalives in the pooler. They have no effect on Unix sockets. See the PostgreSQL manual, "Connections and Authentication".
func PoolConfig(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, &Error{Kind: ErrConfig, Reason: "the connection string cannot be parsed", Cause: err}
	}
	for name, value := range map[string]string{
		"tcp_keepalives_idle":              "2",
		"tcp_keepalives_interval":          "1",
		"tcp_keepalives_count":             "3",
		"tcp_user_timeout":                 "5000",
		"client_connection_check_interval": "1000",
	} {
		if _, set := config.ConnConfig.RuntimeParams[name]; !set {
			config.ConnConfig.RuntimeParams[name] = value
		}
	}
	return config, nil
}
