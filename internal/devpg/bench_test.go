package devpg

import (
	"fmt"
	"testing"
)

// BenchmarkNewDatabase asks what a test pays for a database of its own, by strategy and number of tests at once.
// Databases are dropped beside it, as they are beside tests.
func BenchmarkNewDatabase(b *testing.B) {
	server := sharedServer(b)
	template, err := server.migrated(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, strategy := range []string{"WAL_LOG", "FILE_COPY"} {
		for _, atOnce := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/%d", strategy, atOnce), func(b *testing.B) {
				b.SetParallelism(atOnce)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						db, err := server.clone(b.Context(), template, strategy)
						if err != nil {
							b.Fatal(err)
						}
						server.drops.drop(db.name)
					}
				})
			})
		}
	}
}
