package pgidem_test

import (
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

func ExamplePoolConfig() {
	config, err := pgidem.PoolConfig("postgres://shop@db.example/shop?pool_max_conns=16&tcp_user_timeout=10000")
	if err != nil {
		panic(err)
	}
	fmt.Println("connections:", config.MaxConns)
	fmt.Println("set in the URL:", config.ConnConfig.RuntimeParams["tcp_user_timeout"])
	fmt.Println("added:", config.ConnConfig.RuntimeParams["tcp_keepalives_idle"])

	// Output:
	// connections: 16
	// set in the URL: 10000
	// added: 2
}
